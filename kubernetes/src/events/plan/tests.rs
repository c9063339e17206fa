//! What is told of what goes on, and when.

use super::*;

const SNAPSHOT: &str = "snapshot-1";

/// So many seconds after the first look.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn offload(state: State, percent: u64) -> Activity {
    Activity {
        kind: Kind::Offload.into(),
        state: state.into(),
        volume_id: "vol-1".into(),
        volume_name: "pvc-1".into(),
        snapshot_id: "snap-1".into(),
        snapshot_name: SNAPSHOT.into(),
        total_bytes: 100 << 20,
        done_bytes: percent << 20,
        ..Activity::default()
    }
}

fn hydration(state: State, percent: u64) -> Activity {
    let claim = [("csi.storage.k8s.io/pvc/namespace", "shop"), ("csi.storage.k8s.io/pvc/name", "data")];
    Activity {
        kind: Kind::Hydration.into(),
        parameters: claim.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..offload(state, percent)
    }
}

/// Looks at one activity after another, at these seconds; says at which something is told, and which reason.
fn story(looks: &[(i64, &[Activity])]) -> Vec<(i64, String)> {
    let mut told = Told::default();
    let mut story = Vec::new();
    for (seconds, activities) in looks {
        let (next, tellings) = plan(&told, activities, at(*seconds));
        told = next;
        story.extend(tellings.into_iter().map(|telling| (*seconds, telling.reason)));
    }
    story
}

fn of(reasons: &[(i64, &str)]) -> Vec<(i64, String)> {
    reasons.iter().map(|(seconds, reason)| (*seconds, (*reason).to_owned())).collect()
}

#[test]
fn nothing_under_way_is_nothing_to_tell() {
    assert_eq!(plan(&Told::default(), &[], at(0)), (Told::default(), vec![]));
}

#[test]
fn work_that_is_short_is_told_of_when_it_ends_and_once() {
    let [waiting, running, done] = [(State::Waiting, 0), (State::Running, 30), (State::Done, 100)]
        .map(|(state, percent)| [offload(state, percent)]);
    let story = story(&[(0, &waiting), (5, &running), (9, &running), (14, &done), (19, &done), (600, &done)]);
    assert_eq!(story, of(&[(5, "BackupStarted"), (14, "BackedUp")]));
}

#[test]
fn long_work_is_told_of_by_tenths_and_none_twice_nor_backwards() {
    let looks: Vec<_> =
        [0, 5, 12, 12, 40, 38, 99, 100].into_iter().map(|percent| hydration(State::Running, percent)).collect();
    let mut looks: Vec<(i64, &[Activity])> = (0..).step_by(5).zip(looks.chunks(1)).collect();
    let done = [hydration(State::Done, 100)];
    looks.push((40, &done));
    let expected = [
        (0, "HydrationStarted"),
        (10, "HydrationProgress"),
        (20, "HydrationProgress"),
        (30, "HydrationProgress"),
        (40, "Hydrated"),
    ];
    assert_eq!(story(&looks), of(&expected));
}

#[test]
fn a_whole_backup_has_a_dozen_events_whatever_it_goes_through() {
    let mut told = Told::default();
    let mut steps = std::collections::BTreeSet::new();
    // Each second another state, for hours.
    for second in 0..20_000 {
        let percent = u64::try_from(second % 101).unwrap();
        let states = [State::Waiting, State::Running, State::Delayed, State::Failed, State::Running];
        let state = states[usize::try_from(second / 20).unwrap() % states.len()];
        let (next, tellings) = plan(&told, &[offload(state, percent)], at(second));
        told = next;
        steps.extend(tellings.into_iter().map(|telling| telling.step));
    }
    assert!(steps.len() <= 14, "{steps:?}");
    assert!(steps.contains(&Step::Tenths(9)) && steps.contains(&Step::Failed), "{steps:?}");
}

#[test]
fn a_turn_that_does_not_come_is_told_of() {
    let waiting = [offload(State::Waiting, 0)];
    assert_eq!(story(&[(0, &waiting), (5, &waiting), (10, &waiting), (3600, &waiting)]), of(&[(10, "BackupWaiting")]));
}

#[test]
fn what_lasts_is_told_again_after_a_while_also_when_it_comes_and_goes() {
    let (delayed, running) = ([offload(State::Delayed, 0)], [offload(State::Running, 0)]);
    let story = story(&[
        (0, &delayed),
        (5, &running),
        (10, &delayed),
        (899, &delayed),
        (900, &delayed),
        (1000, &delayed),
        (1800, &delayed),
    ]);
    assert_eq!(
        story,
        of(&[(0, "BackupDelayed"), (5, "BackupStarted"), (900, "BackupDelayed"), (1800, "BackupDelayed")])
    );
}

#[test]
fn what_was_told_is_remembered_for_a_while_after_nobody_mentions_it() {
    let failed = [hydration(State::Failed, 0)];
    // The node starts anew meanwhile.
    assert_eq!(story(&[(0, &failed), (5, &[]), (600, &failed)]), of(&[(0, "HydrationFailed")]));
    let (told, _) = plan(&Told::default(), &failed, at(0));
    let (told, _) = plan(&told, &[], at(1799));
    assert_eq!(told.0.len(), 1);
    let (told, _) = plan(&told, &[], at(1800));
    assert_eq!(told, Told::default(), "nothing is remembered for ever");
}

#[test]
fn what_could_not_be_told_is_told_the_next_time() {
    let failed = [offload(State::Failed, 0)];
    let (mut told, tellings) = plan(&Told::default(), &failed, at(0));
    told.forget(&tellings[0]);
    let (told, again) = plan(&told, &failed, at(5));
    assert_eq!(again, tellings);
    assert_eq!(plan(&told, &failed, at(10)).1, []);
}

#[test]
fn of_two_nodes_that_know_a_volume_the_one_counts_where_it_has_come_further() {
    let both = [hydration(State::Failed, 0), hydration(State::Running, 10), hydration(State::Delayed, 0)];
    assert_eq!(story(&[(0, &both)]), of(&[(0, "HydrationStarted")]));
}

#[test]
fn backups_are_told_of_on_their_snapshots_and_failed_ones_on_the_claim_as_well() {
    let failed = Activity { message: "the store refuses".into(), ..offload(State::Failed, 0) };
    let (told, tellings) = plan(&Told::default(), &[failed], at(0));
    let [telling] = &tellings[..] else { panic!("{tellings:?}") };
    assert_eq!(telling.object, Object::Snapshot { id: "snap-1".into(), name: SNAPSHOT.into() });
    assert!(telling.warning && telling.message.starts_with("the store refuses"), "{telling:?}");
    let (volume, condition) = telling.condition.as_ref().unwrap();
    assert_eq!(*volume, Volume { id: "vol-1".into(), name: "pvc-1".into(), claim: None });
    assert_eq!((condition.kind, condition.holds), ("csi.varve.io/BackupFailed", true));
    assert_eq!((&condition.reason, &condition.message), (&"BackupFailed".to_owned(), &telling.message));

    let (_, tellings) = plan(&told, &[offload(State::Done, 100)], at(5));
    let (_, condition) = tellings[0].condition.as_ref().unwrap();
    assert_eq!((condition.kind, condition.holds), ("csi.varve.io/BackupFailed", false));
    assert!(!tellings[0].warning);
}

#[test]
fn restores_are_told_of_on_the_claim_that_the_volume_is_made_for() {
    let (told, tellings) = plan(&Told::default(), &[hydration(State::Running, 0)], at(0));
    let claim = Some(("shop".to_owned(), "data".to_owned()));
    let volume = Volume { id: "vol-1".into(), name: "pvc-1".into(), claim };
    assert_eq!(tellings[0].object, Object::Claim(volume.clone()));
    let holds =
        |tellings: &[Telling]| tellings[0].condition.as_ref().map(|(of, one)| (of.clone(), one.kind, one.holds));
    assert_eq!(holds(&tellings), Some((volume.clone(), "csi.varve.io/Hydrating", true)));
    let (_, tellings) = plan(&told, &[hydration(State::Done, 0)], at(5));
    assert_eq!(holds(&tellings), Some((volume, "csi.varve.io/Hydrating", false)));
}

#[test]
fn an_image_s_troubles_are_told_of_each_by_itself_and_change_no_condition() {
    let of = |reason: &str| Activity {
        kind: Kind::Health.into(),
        state: State::Failed.into(),
        volume_id: "vol-1".into(),
        reason: reason.into(),
        message: format!("{reason}: restore a snapshot"),
        ..Activity::default()
    };
    let (_, tellings) = plan(&Told::default(), &[of("ImageMissing"), of("RecordMissing")], at(0));
    let reasons: Vec<_> = tellings.iter().map(|telling| telling.reason.as_str()).collect();
    assert_eq!(reasons, ["ImageMissing", "RecordMissing"]);
    assert!(tellings.iter().all(|telling| telling.warning && telling.condition.is_none()), "{tellings:?}");
}

#[test]
fn what_is_not_understood_is_not_told() {
    let unknown = [
        Activity { kind: 77, ..offload(State::Failed, 0) },
        Activity { state: 77, ..offload(State::Failed, 0) },
        Activity::default(),
    ];
    assert_eq!(plan(&Told::default(), &unknown, at(0)).1, []);
}
