//! How things are said to users. `docs/operations.md` lists the reasons, and what to do.

use varve_proto::agent::{Activity, activity::Kind};

use super::plan::Step;

/// The condition of a claim that is being filled from a snapshot.
pub(super) const HYDRATING: &str = "csi.varve.io/Hydrating";

/// The condition of a claim whose last backup failed.
pub(super) const BACKUP_FAILED: &str = "csi.varve.io/BackupFailed";

/// Longest message, in bytes (Event, `note`: 1 kB).
const LONGEST: usize = 1000;

/// Longest reason, in bytes (Event, `reason`: 128 characters).
const LONGEST_REASON: usize = 64;

/// How many tenths are done; `None` where it is not known how much there is.
pub(super) fn tenths(activity: &Activity) -> Option<u8> {
    u8::try_from(share(activity, 10)?).ok()
}

/// So many parts of the whole are done.
fn share(activity: &Activity, whole: u64) -> Option<u64> {
    let parts = u128::from(activity.done_bytes) * u128::from(whole);
    let parts = parts.checked_div(u128::from(activity.total_bytes))?;
    // What is counted piece by piece may be ahead of what was expected.
    Some(u64::try_from(parts).unwrap_or(whole).min(whole))
}

/// The event's reason.
pub(super) fn reason(step: Step, activity: &Activity) -> String {
    let reason = match (activity.kind(), step) {
        (Kind::Hydration, Step::Waiting | Step::Begun) => "HydrationStarted",
        (Kind::Hydration, Step::Tenths(_)) => "HydrationProgress",
        (Kind::Hydration, Step::Delayed) => "HydrationDelayed",
        (Kind::Hydration, Step::Failed) => "HydrationFailed",
        (Kind::Hydration, Step::Done) => "Hydrated",
        (Kind::Offload | Kind::Unspecified, Step::Waiting) => "BackupWaiting",
        (Kind::Offload | Kind::Unspecified, Step::Begun) => "BackupStarted",
        (Kind::Offload | Kind::Unspecified, Step::Tenths(_)) => "BackupProgress",
        (Kind::Offload | Kind::Unspecified, Step::Delayed) => "BackupDelayed",
        (Kind::Offload | Kind::Unspecified, Step::Failed) => "BackupFailed",
        (Kind::Offload | Kind::Unspecified, Step::Done) => "BackedUp",
        (Kind::Health, _) => {
            let word = activity.reason.as_str();
            let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if is_word && word.len() <= LONGEST_REASON { word } else { "VolumeUnhealthy" }
        }
    };
    reason.to_owned()
}

/// The event's message.
pub(super) fn message(step: Step, activity: &Activity) -> String {
    let hydration = activity.kind() == Kind::Hydration;
    let Activity { total_bytes, done_bytes, moved_bytes, snapshot_id, .. } = activity;
    let [total, done, moved] = [total_bytes, done_bytes, moved_bytes].map(|bytes| size(*bytes));
    let text = match step {
        Step::Waiting => "the snapshot is cut, and waits for its turn to be backed up on its node".to_owned(),
        Step::Begun if hydration => format!("the volume is being restored from snapshot {snapshot_id}"),
        Step::Begun => "the snapshot is being backed up".to_owned(),
        Step::Tenths(_) => {
            let percent = share(activity, 100).unwrap_or_default();
            let what = if hydration { "restored" } else { "backed up" };
            format!("{percent} % {what}: {done} of {total}")
        }
        Step::Done if hydration => {
            format!(
                "the volume is restored from snapshot {snapshot_id}: {done} written, {moved} fetched, in {}",
                seconds(activity.took_millis)
            )
        }
        Step::Done => {
            format!("the snapshot is backed up: {total} changed, {moved} sent, in {}", seconds(activity.took_millis))
        }
        Step::Delayed | Step::Failed => trouble(step, activity),
    };
    bounded(text)
}

/// What is the matter, and what to do.
fn trouble(step: Step, activity: &Activity) -> String {
    let advice = activity.advice.as_str();
    let mut text = activity.message.clone();
    if !advice.is_empty() {
        text = format!("{text}: {advice}");
    }
    // A failed backup is tried again whenever the snapshot is asked for again, which the snapshotter does.
    let again = match (step, activity.kind()) {
        (Step::Delayed, _) if !advice.contains("tried again") => "it is tried again by itself",
        (Step::Failed, Kind::Offload) if activity.reason != "PoolFull" => {
            "it is tried again about every minute, and is ready once that is put right"
        }
        _ => return text,
    };
    format!("{text}; {again}")
}

/// The condition that a step changes, and whether it holds then.
pub(super) fn condition(step: Step, activity: &Activity) -> Option<(&'static str, bool)> {
    match (activity.kind(), step) {
        (Kind::Hydration, Step::Waiting | Step::Begun | Step::Tenths(_) | Step::Delayed) => Some((HYDRATING, true)),
        (Kind::Hydration, Step::Failed | Step::Done) => Some((HYDRATING, false)),
        (Kind::Offload, Step::Failed) => Some((BACKUP_FAILED, true)),
        (Kind::Offload, Step::Done) => Some((BACKUP_FAILED, false)),
        (Kind::Offload, Step::Waiting | Step::Begun | Step::Tenths(_) | Step::Delayed) => None,
        (Kind::Health | Kind::Unspecified, _) => None,
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST - '…'.len_utf8()));
        text.push('…');
    }
    text
}

/// Bytes in the largest unit of which there is at least one, as in `1.5 GiB`.
fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = units.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} bytes");
    };
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// Milliseconds as seconds, as in `1.4 s`.
fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use varve_proto::agent::activity::State;

    use super::*;

    fn of(kind: Kind, state: State) -> Activity {
        Activity { kind: kind.into(), state: state.into(), snapshot_id: "snap-1".into(), ..Activity::default() }
    }

    #[test]
    fn sizes_and_times_are_told_in_few_digits() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            ((3 << 20) + (1 << 19), "3.5 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((seconds(0), seconds(1449), seconds(60_000)), ("0.0 s".into(), "1.4 s".into(), "60.0 s".into()));
    }

    #[test]
    fn shares_are_never_more_than_the_whole() {
        let at = |done, total| {
            let activity = Activity { done_bytes: done, total_bytes: total, ..Activity::default() };
            (tenths(&activity), share(&activity, 100))
        };
        assert_eq!(at(0, 0), (None, None));
        assert_eq!(at(0, 10), (Some(0), Some(0)));
        assert_eq!(at(42, 100), (Some(4), Some(42)));
        assert_eq!(at(200, 100), (Some(10), Some(100)));
        assert_eq!(at(u64::MAX, u64::MAX), (Some(10), Some(100)));
    }

    #[test]
    fn every_step_is_said_in_words_that_say_how_far_it_is() {
        let running = of(Kind::Hydration, State::Running);
        let half = Activity { total_bytes: 50 << 20, done_bytes: 21 << 20, ..running };
        assert_eq!(message(Step::Tenths(4), &half), "42 % restored: 21.0 MiB of 50.0 MiB");
        let half = Activity { kind: Kind::Offload.into(), ..half };
        assert_eq!(message(Step::Tenths(4), &half), "42 % backed up: 21.0 MiB of 50.0 MiB");
        let done = Activity { done_bytes: 50 << 20, moved_bytes: 3 << 20, took_millis: 2500, ..half };
        assert_eq!(message(Step::Done, &done), "the snapshot is backed up: 50.0 MiB changed, 3.0 MiB sent, in 2.5 s");
        let done = Activity { kind: Kind::Hydration.into(), ..done };
        let expected = "the volume is restored from snapshot snap-1: 50.0 MiB written, 3.0 MiB fetched, in 2.5 s";
        assert_eq!(message(Step::Done, &done), expected);
        assert!(message(Step::Begun, &done).contains("snap-1"));
    }

    #[test]
    fn trouble_is_said_with_what_to_do_and_with_what_happens_by_itself() {
        let message_of = |step, kind, text: &str, advice: &str| {
            let activity = Activity { message: text.into(), advice: advice.into(), ..of(kind, State::Failed) };
            message(step, &activity)
        };
        assert_eq!(message_of(Step::Delayed, Kind::Offload, "no", "it is tried again"), "no: it is tried again");
        assert_eq!(message_of(Step::Delayed, Kind::Offload, "no", ""), "no; it is tried again by itself");
        let failed = message_of(Step::Failed, Kind::Offload, "refused", "give it the permission");
        assert!(failed.starts_with("refused: give it the permission; it is tried again about every"), "{failed}");
        assert_eq!(message_of(Step::Failed, Kind::Health, "gone: restore", ""), "gone: restore");
        let given_up =
            Activity { reason: "PoolFull".into(), message: "take another".into(), ..of(Kind::Offload, State::Failed) };
        assert_eq!(message(Step::Failed, &given_up), "take another");
        let long = message_of(Step::Failed, Kind::Health, &"ä".repeat(900), "");
        assert!(long.len() <= LONGEST && long.ends_with('…'), "{}", long.len());
    }

    #[test]
    fn what_an_image_s_health_calls_itself_is_the_reason_if_it_is_a_word() {
        let reason_of =
            |word: &str| reason(Step::Failed, &Activity { reason: word.into(), ..of(Kind::Health, State::Failed) });
        assert_eq!(reason_of("ImageMissing"), "ImageMissing");
        for none in ["", "two words", &"A".repeat(65)] {
            assert_eq!(reason_of(none), "VolumeUnhealthy");
        }
    }

    #[test]
    fn every_reason_and_condition_is_documented() {
        let documentation = include_str!("../../../docs/operations.md");
        let conditions = [HYDRATING, BACKUP_FAILED, super::super::foreign::REASON].map(str::to_owned);
        for word in super::super::plan::reasons().into_iter().chain(conditions) {
            assert!(documentation.contains(&format!("`{word}`")), "docs/operations.md lacks {word}");
        }
    }
}
