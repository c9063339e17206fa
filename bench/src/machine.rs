//! What a run was made on: enough to compare with another, and nothing that names the machine.

use std::{fmt, fs};

use serde::{Deserialize, Serialize};

use crate::rivals;

/// A machine, and what ran on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub cores: usize,
    /// What the processor calls itself.
    pub processor: String,
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Programs that were compared, with their versions.
    pub programs: Vec<String>,
}

impl Machine {
    /// Looks at this one. What cannot be found out stays empty: nothing that is measured depends on it.
    pub(crate) async fn look() -> Self {
        let mut programs = vec![concat!("varve ", env!("CARGO_PKG_VERSION")).to_owned()];
        match rivals::versions().await {
            Ok(rivals) => programs.extend(rivals),
            Err(error) => eprintln!("what to compare with does not say its version: {error:#}"),
        }
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            memory_bytes: field("/proc/meminfo", "MemTotal")
                .and_then(|total| total.trim_end_matches(" kB").parse::<u64>().ok())
                .map_or(0, |kibibytes| kibibytes << 10),
            kernel: kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
            programs,
        }
    }
}

/// The numbers of a kernel's release: what follows them may name who built it.
fn kernel(release: &str) -> String {
    release.trim().chars().take_while(|letter| letter.is_ascii_digit() || *letter == '.').collect()
}

/// The value of the first line of a file whose key is this.
fn field(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key);
    line.map(|(_, value)| value.trim().to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gibibytes = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(f, "{} cores ({}), {gibibytes:.0} GiB, Linux {}", self.cores, self.processor, self.kernel)?;
        self.programs.iter().try_for_each(|program| write!(f, ", {program}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_told_without_its_builder() {
        assert_eq!(kernel("6.18.5-somebody-7\n"), "6.18.5");
        assert_eq!(kernel(""), "");
    }

    #[test]
    fn a_machine_is_told_in_one_line() {
        let machine = Machine {
            cores: 2,
            processor: "A processor".into(),
            memory_bytes: 8 << 30,
            kernel: "6.18.5".into(),
            programs: vec!["varve 0.1.0".into(), "restic 0.18.1".into()],
        };
        assert_eq!(machine.to_string(), "2 cores (A processor), 8 GiB, Linux 6.18.5, varve 0.1.0, restic 0.18.1");
    }
}
