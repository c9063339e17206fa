//! Mount options: taken apart, so that none hides behind another's comma, and held against those that the driver
//! owns or that would hurt the node.
//!
//! What is left goes to the kernel, which refuses what its file system does not know. No message repeats an option's
//! value, which may be sensitive (CSI, VolumeCapability, `mount_flags`).

use super::{Refusal, malformed, shorten, unsupported};

/// Why an option is refused.
struct Rule {
    names: &'static [&'static str],
    reason: &'static str,
}

/// The options that are refused whatever their value; names are as in mount(8), ext4(5) and xfs(5).
const REFUSED: &[Rule] = &[
    Rule {
        names: &["bind", "rbind", "move", "remount", "loop", "offset", "sizelimit", "source"],
        reason: "the driver decides what is mounted, and how",
    },
    Rule {
        names: &["shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"],
        reason: "the driver sets the propagation",
    },
    Rule {
        names: &[
            "auto",
            "noauto",
            "user",
            "nouser",
            "users",
            "owner",
            "group",
            "_netdev",
            "nofail",
            "helper",
            "uhelper",
            "comment",
            "encryption",
        ],
        reason: "it is for mount(8) and /etc/fstab, and the driver uses neither",
    },
    Rule {
        names: &["journal_dev", "journal_path", "logdev", "rtdev", "sb"],
        reason: "a volume consists of its own device, from its start",
    },
    Rule {
        names: &["noload", "norecovery"],
        reason: "a journal that is not replayed leaves the file system inconsistent",
    },
    Rule { names: &["abort"], reason: "it stops the file system" },
];

/// Splits one flag at its commas, as the kernel would, and checks each option. Nothing is split inside of double
/// quotes. `defaults` asks for nothing and is left out.
pub(super) fn split(field: &str, flag: &str) -> Result<Vec<String>, Refusal> {
    if flag.is_empty() {
        return Err(malformed(format_args!("{field} is empty")));
    }
    if flag.chars().any(char::is_control) {
        return Err(malformed(format_args!("{field} has a control character")));
    }
    let mut quoted = false;
    let options: Vec<&str> = flag
        .split(|character| {
            quoted ^= character == '"';
            character == ',' && !quoted
        })
        .collect();
    if quoted {
        return Err(malformed(format_args!("{field} has a double quote that is not closed")));
    }
    for option in &options {
        check(field, option)?;
    }
    Ok(options.into_iter().filter(|option| *option != "defaults").map(ToOwned::to_owned).collect())
}

/// Returns an option's name, which stands before `=`.
pub(super) fn name(option: &str) -> &str {
    option.split_once('=').map_or(option, |(name, _)| name)
}

fn check(field: &str, option: &str) -> Result<(), Refusal> {
    let name = name(option);
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(malformed(format_args!("{field} has an option without a name that the kernel could know")));
    }
    let refused = |reason: &str| unsupported(format_args!("{field} has {:?}: {reason}", shorten(name)));
    if let Some(rule) = REFUSED.iter().find(|rule| rule.names.contains(&name)) {
        return Err(refused(rule.reason));
    }
    // mount(8) reads these and does much with some of them, such as making folders; the kernel knows none.
    if name.starts_with("x-") || name.starts_with("X-") {
        return Err(refused("it is for mount(8), and the driver does not use it"));
    }
    if option == "errors=panic" {
        return Err(refused("an error on one volume must not stop the node"));
    }
    Ok(())
}
