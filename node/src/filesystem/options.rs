//! Mount options as text, turned into what mount(2) takes.

use std::ffi::CString;

use rustix::mount::MountFlags;

use super::{Error, Result};

/// Options that are flags of mount(2), with whether they set it.
const FLAGS: &[(&str, MountFlags, bool)] = &[
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("lazytime", MountFlags::LAZYTIME, true),
    ("nolazytime", MountFlags::LAZYTIME, false),
    ("silent", MountFlags::SILENT, true),
    ("loud", MountFlags::SILENT, false),
];

/// Options that mean something to mount(8) and nothing to the kernel.
const IGNORED: &[&str] = &["defaults", "auto", "noauto", "_netdev", "nofail", "user", "nouser"];

/// Options that would make the call do something other than mount this device here.
const REFUSED: &[&str] = &[
    "bind",
    "rbind",
    "move",
    "remount",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    "loop",
    "offset",
    "sizelimit",
    "encryption",
];

/// What mount(2) takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) flags: MountFlags,
    /// What is left for the file system, separated by commas.
    pub(super) data: CString,
}

/// Turns options, each of which may be several separated by commas, into flags and data; later ones win.
pub(super) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Parsed> {
    let mut flags = MountFlags::empty();
    let mut data: Vec<&str> = Vec::new();
    for option in options.into_iter().flat_map(|options| options.split(',')).filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or(option);
        let invalid = |reason| Error::InvalidOption { option: option.to_owned(), reason };
        if option.chars().any(char::is_control) {
            return Err(invalid("control characters are not allowed"));
        }
        if REFUSED.contains(&name) {
            return Err(invalid("the driver itself decides what is mounted where"));
        }
        if let Some((_, flag, set)) = FLAGS.iter().find(|(known, ..)| *known == option) {
            flags.set(*flag, *set);
        } else if !IGNORED.contains(&name) && !name.starts_with("x-") && !data.contains(&option) {
            data.push(option);
        }
    }
    let data = CString::new(data.join(",")).expect("control characters, and so zeroes, were refused");
    Ok(Parsed { flags, data })
}

/// Returns the flags that the options of an existing mount stand for; what is not a flag is left out.
pub(super) fn flags_of(options: &str) -> MountFlags {
    let mut flags = MountFlags::empty();
    for option in options.split(',') {
        if let Some((_, flag, set)) = FLAGS.iter().find(|(known, ..)| *known == option) {
            flags.set(*flag, *set);
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let parsed = parse(["noatime,discard", "commit=30", "defaults", "discard", "ro", "rw", "x-note=1"]).unwrap();
        assert_eq!(parsed.flags, MountFlags::NOATIME);
        assert_eq!(parsed.data.to_str(), Ok("discard,commit=30"));
    }

    #[test]
    fn options_that_belong_to_the_driver_are_refused() {
        for option in ["bind", "remount", "noatime,shared", "loop=/dev/loop3", "commit=\n"] {
            assert!(matches!(parse([option]), Err(Error::InvalidOption { .. })), "{option}");
        }
    }
}
