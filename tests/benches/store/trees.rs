//! The trees that are measured: made from numbers alone, so that every machine measures the same.
//!
//! | tree | what |
//! |------|------|
//! | node | 45,000 small files in a `node_modules` of many directories, 530 MB, links, a hard link, a sparse file; of
//! |      | words, as code is: it compresses to about a third |
//! | big  | 50 files of 11 MB, every other one compressible |
//!
//! Version 2 differs in 2 % of the files: 80 % new content as a new inode, 10 % gone, 10 % new.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

/// Which tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    Node { files: usize },
    Big,
}

/// What files are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Noise,
    Words,
    /// One word, again and again.
    Repeats,
}

/// One in so many files differs in version 2.
const DIFFERS_ONE_IN: usize = 50;
/// Files of one package of the node tree.
const PACKAGE_FILES: usize = 30;

impl Tree {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node { .. } => "node",
            Self::Big => "big",
        }
    }

    /// Writes version 1 into `root`, which must not be there.
    pub(crate) fn build(self, root: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o755).create(root)?;
        match self {
            Self::Node { files } => {
                for number in 0..files {
                    let path = node_path(root, number);
                    if number % PACKAGE_FILES == 0 {
                        let parent = path.parent().expect("a file below the root has a parent");
                        fs::create_dir_all(parent)?;
                    }
                    fs::write(&path, content(number as u64, node_bytes(number), Holds::Words))?;
                }
                special(root)
            }
            Self::Big => {
                for number in 0..50 {
                    let bytes = 11 << 20;
                    fs::write(
                        big_path(root, number),
                        content(
                            number as u64,
                            bytes,
                            if number % 2 == 0 { Holds::Repeats } else { Holds::Noise },
                        ),
                    )?;
                }
                Ok(())
            }
        }
    }

    /// Makes version 2 of version 1, as a package manager would: new files take the names of old ones.
    pub(crate) fn change(self, root: &Path) -> io::Result<()> {
        match self {
            Self::Node { files } => {
                for (nth, number) in (0..files).step_by(DIFFERS_ONE_IN).enumerate() {
                    let path = node_path(root, number);
                    match nth % 10 {
                        0 => fs::remove_file(&path)?,
                        1 => fs::write(
                            path.with_extension("new.js"),
                            content(!(number as u64), node_bytes(number), Holds::Words),
                        )?,
                        _ => replace(
                            &path,
                            &content(!(number as u64), node_bytes(number), Holds::Words),
                        )?,
                    }
                }
                Ok(())
            }
            Self::Big => {
                // One file, shifted by some bytes and rewritten in its last part.
                let path = big_path(root, 7);
                let mut bytes = content(7, 11 << 20, Holds::Noise);
                bytes.splice(0..0, *b"shifted");
                let tail = bytes.len() - (2 << 20);
                bytes.truncate(tail);
                bytes.extend(content(!7, 2 << 20, Holds::Noise));
                replace(&path, &bytes)
            }
        }
    }
}

fn node_path(root: &Path, number: usize) -> PathBuf {
    let package = number / PACKAGE_FILES;
    let depth = ["lib", "dist/esm", "src/internal/util"][package % 3];
    root.join(format!("node_modules/package-{package:04}/{depth}/file-{number:05}.js"))
}

fn big_path(root: &Path, number: usize) -> PathBuf {
    root.join(format!("asset-{number:02}.bin"))
}

/// Most files of a node tree are small, a few are large: about 12 kB on average.
fn node_bytes(number: usize) -> usize {
    match mix(number as u64) % 100 {
        0 => 256 << 10,
        1..=9 => 48 << 10,
        10..=39 => 8 << 10,
        _ => 600 + (mix(!(number as u64)) % 3_400) as usize,
    }
}

/// What trees hold beside plain files.
fn special(root: &Path) -> io::Result<()> {
    let env = root.join(".env");
    fs::write(&env, "NODE_ENV=production\nJWT_SECRET=not-a-real-one\n")?;
    fs::set_permissions(&env, Permissions::from_mode(0o600))?;
    let bin = root.join("node_modules/.bin");
    fs::create_dir_all(&bin)?;
    for number in 0..200 {
        symlink(
            format!("../package-{number:04}/lib/file-{:05}.js", number * PACKAGE_FILES),
            bin.join(format!("tool-{number}")),
        )?;
    }
    fs::hard_link(&env, root.join(".env.same"))?;
    let sparse = File::create(root.join("sparse.db"))?;
    sparse.set_len(8 << 20)?;
    sparse.write_at(b"the end", (8 << 20) - 7)?;
    Ok(())
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("unfinished");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

/// Bytes that depend on `seed` alone.
fn content(seed: u64, bytes: usize, holds: Holds) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 16);
    let mut state = seed;
    while out.len() < bytes {
        state = state.wrapping_add(if holds == Holds::Repeats { 0 } else { 1 });
        let word = mix(seed ^ state.rotate_left(17));
        match holds {
            Holds::Noise | Holds::Repeats => out.extend_from_slice(&word.to_le_bytes()),
            Holds::Words if word.is_multiple_of(4) => {
                out.extend_from_slice(format!("{:x} ", word >> 44).as_bytes())
            }
            Holds::Words => {
                out.extend_from_slice(WORDS[(word >> 8) as usize % WORDS.len()].as_bytes())
            }
        }
    }
    out.truncate(bytes);
    out
}

/// What code is made of beside names.
const WORDS: [&str; 16] = [
    "function ",
    "return ",
    "const ",
    "let ",
    "if (",
    ") {\n",
    "}\n",
    " = ",
    "this.",
    "await ",
    "new ",
    "null;\n",
    "exports.",
    "require(",
    " === ",
    "length ",
];

/// SplitMix64's last steps (Steele, Lea and Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
