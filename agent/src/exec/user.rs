//! Which uid and gid a user's name stands for.
//!
//! Invariant: only `/etc/passwd` is asked, never the network: a dead directory server stops no rollback.

use std::{fs, io};

const PASSWD: &str = "/etc/passwd";

/// A user of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Looks up `name`, `None` where `/etc/passwd` does not have it.
pub(crate) fn look_up(name: &str) -> io::Result<Option<User>> {
    Ok(find(&fs::read_to_string(PASSWD)?, name))
}

/// Whether the agent itself runs as `user`, so that there is nothing to change.
pub(crate) fn is_own(user: User) -> bool {
    use rustix::process::{getegid, geteuid};
    geteuid().as_raw() == user.uid && getegid().as_raw() == user.gid
}

/// passwd(5): `name:password:uid:gid:comment:home:shell`.
fn find(passwd: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut ids = line.split(':').skip(2).map(|id| id.parse().ok());
    Some(User { uid: ids.next()??, gid: ids.next()?? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_name_only() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:34::/var/www:/bin/false\nbad:x\n";
        assert_eq!(find(passwd, "www-data"), Some(User { uid: 33, gid: 34 }));
        for name in ["www", "x", "", "bad"] {
            assert_eq!(find(passwd, name), None, "{name}");
        }
    }
}
