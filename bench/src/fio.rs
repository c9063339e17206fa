//! Runs fio and reads what it measured.

use std::{path::Path, process::Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::process::Command;

/// What one job measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Requests a second, reads and writes together.
    pub rate: f64,
    /// The longest that one request took, from before it was submitted to its completion, in seconds.
    pub longest: f64,
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i32,
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    iops: f64,
    lat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    max: f64,
}

/// Runs one job past the page cache on a file, with these options (fio(1), without the dashes) beside.
pub(crate) async fn run(file: &Path, options: &[&str]) -> anyhow::Result<Measured> {
    let mut command = Command::new("fio");
    command.arg("--name=job").arg(format!("--filename={}", file.display()));
    command.args(["--output-format=json", "--direct=1", "--thread", "--randrepeat=0"]);
    command.args(options.iter().map(|option| format!("--{option}")));
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("starting fio (`apt-get install -y fio` installs it)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("fio {options:?} on {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    parse(&text).with_context(|| format!("reading what fio {options:?} measured"))
}

fn parse(text: &str) -> anyhow::Result<Measured> {
    // What it has to remark comes before.
    let start = text.find('{').context("there is no JSON")?;
    let output: Output = serde_json::from_str(&text[start..])?;
    let [job] = output.jobs.as_slice() else { bail!("{} jobs were measured", output.jobs.len()) };
    if job.error != 0 {
        bail!("the job failed: {}", std::io::Error::from_raw_os_error(job.error));
    }
    Ok(Measured { rate: job.read.iops + job.write.iops, longest: job.read.lat_ns.max.max(job.write.lat_ns.max) / 1e9 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_the_longest_request_are_read() {
        let text = r#"fio: a remark
            {"jobs": [{"error": 0,
                "read": {"iops": 0.0, "lat_ns": {"max": 0}},
                "write": {"iops": 1250.5, "lat_ns": {"max": 31000000}}}]}"#;
        let measured = parse(text).unwrap();
        assert!((measured.rate - 1250.5).abs() < 1e-9 && (measured.longest - 0.031).abs() < 1e-9, "{measured:?}");
        assert!(parse(&text.replace("\"error\": 0", "\"error\": 28")).is_err());
        assert!(parse("nothing").is_err());
    }
}
