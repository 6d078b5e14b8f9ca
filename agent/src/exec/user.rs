//! Which uid, gid, groups and home a user's name stands for.
//!
//! Invariant: only `/etc/passwd` and `/etc/group` are asked, never the network: a dead directory server stops no rollback.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
    /// Every group that the user is in, the first of them too, as initgroups(3) would set them.
    pub(crate) groups: BTreeSet<u32>,
}

/// Looks up `name`, `None` where `/etc/passwd` does not have it.
pub(crate) fn look_up(name: &str) -> io::Result<Option<User>> {
    let group = match fs::read_to_string(GROUP) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    Ok(find(&fs::read_to_string(PASSWD)?, &group, name))
}

/// Whether the agent itself runs as `user`, so that there is nothing to change.
pub(crate) fn is_own(user: &User) -> bool {
    use rustix::process::{getegid, geteuid};
    geteuid().as_raw() == user.uid && getegid().as_raw() == user.gid
}

/// passwd(5): `name:password:uid:gid:comment:home:shell`.
fn find(passwd: &str, group: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).filter(|home| home.starts_with('/')).unwrap_or("/");
    let mut groups = BTreeSet::from([gid]);
    groups.extend(group.lines().filter_map(|line| group_of(line, name)));
    Some(User { uid, gid, home: home.into(), groups })
}

/// group(5): `name:password:gid:user,user`. The gid, where `name` is among the users.
fn group_of(line: &str, name: &str) -> Option<u32> {
    let mut fields = line.split(':').skip(2);
    let gid = fields.next()?.parse().ok()?;
    fields.next()?.split(',').any(|user| user.trim() == name).then_some(gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:34::/var/www:/bin/false\nbad:x\n";

    #[test]
    fn a_user_is_found_by_the_whole_name_only() {
        let group = "www-data:x:34:\nadm:x:4:syslog,www-data\nlike:x:5:www\nbad:x:y:www-data\n";
        let wanted =
            User { uid: 33, gid: 34, home: "/var/www".into(), groups: BTreeSet::from([4, 34]) };
        assert_eq!(find(PASSWD, group, "www-data"), Some(wanted));
        for name in ["www", "x", "", "bad"] {
            assert_eq!(find(PASSWD, group, name), None, "{name}");
        }
    }
}
