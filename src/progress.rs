//! How far long work has come, on the standard error stream: a bar on a terminal, a plain line now and then elsewhere.

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};
use varve_repository::progress::{Progress, Reading};

use crate::quantity::bytes;

/// How often a bar is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// How often a plain line is written.
const LINE: Duration = Duration::from_secs(5);

/// Runs `work` to its end and shows how far it has come meanwhile.
pub(crate) async fn watch<T>(what: &str, progress: &Progress, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let bar = io::stderr().is_terminal().then(|| bar(what));
    let started = Instant::now();
    let mut ticks = interval(if bar.is_some() { FRAME } else { LINE });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is due at once, when there is nothing to say yet.
    ticks.tick().await;
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = ticks.tick() => {
                let reading = progress.read();
                match &bar {
                    Some(bar) => draw(bar, reading),
                    None => eprintln!("{}", line(what, reading, started.elapsed())),
                }
            }
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    result
}

fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix} {wide_bar} {binary_bytes} of {binary_total_bytes} ({binary_bytes_per_sec}, {eta}){msg}",
    )
    .expect("the template is well formed");
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style).with_prefix(what.to_owned())
}

fn draw(bar: &ProgressBar, reading: Reading) {
    if reading.total > 0 {
        bar.set_length(reading.total);
    }
    bar.set_position(reading.done);
    bar.set_message(format!(", {} moved", bytes(reading.moved)));
}

fn line(what: &str, reading: Reading, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let moved = bytes(reading.moved);
    if reading.total == 0 {
        format!("{what}: {} done, {moved} moved, {seconds} s", bytes(reading.done))
    } else {
        let percent = u128::from(reading.done) * 100 / u128::from(reading.total);
        format!(
            "{what}: {} of {} done ({percent} %), {moved} moved, {seconds} s",
            bytes(reading.done),
            bytes(reading.total)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let reading = Reading { total: 4 << 30, done: 1 << 30, moved: 100 << 20 };
        assert_eq!(
            line("restoring", reading, Duration::from_secs(7)),
            "restoring: 1.0 GiB of 4.0 GiB done (25 %), 100 MiB moved, 7 s"
        );
        let unknown = Reading { total: 0, done: 0, moved: 0 };
        assert_eq!(line("checking", unknown, Duration::ZERO), "checking: 0 B done, 0 B moved, 0 s");
    }

    #[tokio::test]
    async fn the_work_s_result_is_returned() {
        assert_eq!(watch("working", &Progress::default(), async { 7 }).await, 7);
    }
}
