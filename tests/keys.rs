//! `varve repository key`: what people do with master keys, what they are told, and that no key is told to anybody.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use varve_harness::{
    Scratch,
    driver::{complaint, text, varve},
};

/// A repository in a folder, and the keys that belong to it.
struct Scene {
    scratch: Scratch,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { scratch: Scratch::new("varve-keys-").expect("a folder can be made") };
        let made = scene.run("first", ["init", "--generate-key"]);
        assert!(made.status.success(), "{}", complaint(&made));
        scene
    }

    fn key(&self, name: &str) -> PathBuf {
        self.scratch.path().join(format!("{name}.key"))
    }

    fn folder(&self) -> PathBuf {
        self.scratch.path().join("repository")
    }

    /// A command on the repository with that key.
    fn command(&self, key: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_varve"));
        command
            .env_clear()
            .env("VARVE_LOG", "trace")
            .arg("repository")
            .args(arguments)
            .args(["--repository", &format!("file://{}", self.folder().display())])
            .args(["--key-file", text(&self.key(key))])
            .stdin(Stdio::null());
        command
    }

    fn run<const N: usize>(&self, key: &str, arguments: [&str; N]) -> Output {
        self.command(key, &arguments).output().expect("it can be started")
    }

    /// What a command answers, as JSON.
    fn answer<const N: usize>(&self, key: &str, arguments: [&str; N]) -> Value {
        json(&self.command(key, &arguments).args(["--output", "json"]).output().expect("it can be started"))
    }

    /// What a command that is refused says, and its exit status.
    fn refusal<const N: usize>(&self, key: &str, arguments: [&str; N]) -> (String, Option<i32>) {
        let output = self.run(key, arguments);
        assert!(!output.status.success(), "{output:?}");
        (complaint(&output), output.status.code())
    }

    /// The ids of the slots, and which of them the key opens.
    fn slots(&self, key: &str) -> Vec<(String, bool)> {
        let listed = self.answer(key, ["key", "list"]);
        let slots = listed.as_array().expect("it is a list").iter();
        slots.map(|slot| (slot["id"].as_str().expect("it is text").to_owned(), slot["opens"] == true)).collect()
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", complaint(output));
    serde_json::from_slice(&output.stdout).expect("it is one JSON value")
}

/// The digits that a key file holds.
fn digits(file: &Path) -> String {
    fs::read_to_string(file).expect("the key is there").trim_end().to_owned()
}

#[test]
fn keys_are_added_listed_and_removed() {
    let scene = Scene::new();
    let second = scene.key("second");
    let add = ["key", "add", "--generate", "--new-key-file", text(&second), "--label", "the safe"];
    let added = scene.answer("first", add);
    assert_eq!((&added["label"], &added["changed"]), (&Value::from("the safe"), &Value::from(true)), "{added:#}");
    assert_eq!(digits(&second).len(), 64);
    let again = scene.answer("first", add);
    assert_eq!((&again["id"], &again["changed"]), (&added["id"], &Value::from(false)), "{again:#}");

    let (first, second) = (scene.slots("first"), scene.slots("second"));
    assert_eq!(first.iter().map(|(_, opens)| *opens).collect::<Vec<_>>(), [true, false]);
    assert_eq!(second.iter().map(|(_, opens)| *opens).collect::<Vec<_>>(), [false, true]);
    let table = scene.run("second", ["key", "list"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("OPENED BY") && table.contains("the safe") && table.contains(&first[0].0), "{table}");

    // The key given opens no other slot than the one that is to go.
    let (said, status) = scene.refusal("first", ["key", "remove", &first[0].0]);
    assert!(said.contains(&first[0].0) && said.contains("--remaining-key-file") && status == Some(2), "{said}");
    let (said, status) = scene.refusal("first", ["key", "remove", "00000000"]);
    assert!(said.contains("no key slot 00000000") && said.contains("key list") && status == Some(1), "{said}");
    let (said, status) = scene.refusal("first", ["key", "remove", "first"]);
    assert!(said.contains("\"first\" is not a key slot's id") && status == Some(2), "{said}");
    let file = scene.key("second");
    let removed = scene.answer("first", ["key", "remove", &first[0].0, "--remaining-key-file", text(&file)]);
    assert_eq!(removed["id"], first[0].0);
    let (said, status) = scene.refusal("first", ["key", "list"]);
    assert!(said.contains("none of its 1 key slots") && said.contains("the safe") && status == Some(1), "{said}");
    let (said, status) = scene.refusal("second", ["key", "remove", &second[1].0]);
    assert!(said.contains("last one") && status == Some(2), "{said}");
    assert_eq!(scene.slots("second").len(), 1);
}

#[test]
fn a_key_is_rotated_and_again_without_harm() {
    let scene = Scene::new();
    let before = scene.slots("first");
    let file = scene.key("second");
    let rotate = ["key", "rotate", "--generate", "--new-key-file", text(&file)];
    let rotated = scene.answer("first", rotate);
    assert_eq!(rotated["removed"]["id"], before[0].0, "{rotated:#}");
    let made = digits(&file);
    let again = scene.answer("first", rotate);
    assert_eq!((&again["id"], &again["removed"]), (&rotated["id"], &Value::Null), "{again:#}");
    assert_eq!(digits(&file), made, "a key is never replaced");
    assert_eq!(scene.slots("second"), [(rotated["id"].as_str().expect("it is text").to_owned(), true)]);

    let (said, _) = scene.refusal("second", rotate);
    assert!(said.contains("the new key is the old one"), "{said}");
    // With neither key nothing is done, and no key is made.
    let (stranger, other) = (scene.key("stranger"), scene.key("other"));
    assert!(varve(["repository", "keygen", "--to", text(&stranger)]).status.success());
    let (said, status) = scene.refusal("stranger", ["key", "rotate", "--generate", "--new-key-file", text(&other)]);
    assert!(said.contains("none of its 1 key slots") && status == Some(1), "{said}");
    assert!(!other.exists());
}

#[test]
fn a_new_key_comes_from_a_file_or_the_environment() {
    let scene = Scene::new();
    let (second, third) = (scene.key("second"), scene.key("third"));
    for file in [&second, &third] {
        assert!(varve(["repository", "keygen", "--to", text(file)]).status.success());
    }
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = scene.command("first", &["key", "add"]);
        command.args(arguments).envs(variables.iter().copied()).output().expect("it can be started")
    };
    let (key, file) = ("VARVE_NEW_MASTER_KEY", "VARVE_NEW_MASTER_KEY_FILE");
    for (variables, arguments, parts) in [
        (&[][..], &[][..], ["no new master key is given", "--new-key-file"]),
        (&[(key, "x"), (file, "/x")][..], &[], ["both", key]),
        (&[(key, "x")], &[], [key, "64 hexadecimal digits"]),
        (&[(key, digits(&second).as_str())], &["--generate"], ["--generate", "--new-key-file"]),
        (&[], &["--new-key-file", "/nowhere/key"], ["/nowhere/key", "cannot be opened"]),
        (&[(file, text(&second))], &["--label", ""], ["--label", "1 to 64 bytes"]),
    ] {
        let output = run(variables, arguments);
        let said = complaint(&output);
        assert!(output.status.code() == Some(2) && parts.iter().all(|part| said.contains(part)), "{said}");
        assert!(!said.contains(&digits(&second)), "{said}");
    }
    assert!(run(&[(key, digits(&second).as_str())], &[]).status.success());
    assert!(run(&[(file, text(&third))], &[]).status.success());
    assert!(scene.slots("third").len() == 3 && scene.slots("second").len() == 3);
}

#[test]
fn the_second_copy_opens_a_repository_and_brings_the_first_back() {
    let scene = Scene::new();
    let first = scene.folder().join("repository");
    let whole = fs::read(&first).expect("it is there");
    for damage in [None, Some(b"VARVE".as_slice())] {
        match damage {
            None => fs::remove_file(&first).expect("it is there"),
            Some(bytes) => fs::write(&first, bytes).expect("it can be written"),
        }
        assert!(scene.run("first", ["stats"]).status.success());
        let (said, _) = scene.refusal("first", ["init"]);
        assert!(said.contains("already holds a repository"), "{said}");
        let checked = scene.run("first", ["check"]);
        assert_eq!(checked.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&checked.stdout).contains("repository: "), "{checked:?}");
        assert_eq!(scene.slots("first").len(), 1);
        assert!(fs::read(&first).expect("it is back") == whole);
        assert!(scene.run("first", ["check"]).status.success());
    }
}

#[test]
fn invariant_7_no_failure_tells_a_key() {
    let scene = Scene::new();
    let (second, broken) = (scene.key("second"), scene.key("broken"));
    assert!(varve(["repository", "keygen", "--to", text(&second)]).status.success());
    let secrets = [digits(&scene.key("first")), digits(&second)];
    fs::copy(&second, &broken).expect("a file can be copied");
    fs::write(&broken, format!("{}0\n", secrets[1])).expect("a file can be written");
    let slot = scene.slots("first")[0].0.clone();
    let mut seen = Vec::new();
    for (key, arguments) in [
        ("first", &["key", "list"][..]),
        ("second", &["key", "list"]),
        ("broken", &["key", "list"]),
        ("first", &["key", "add", "--new-key-file", text(&broken)]),
        ("first", &["key", "add", "--new-key-file", text(&second)]),
        ("first", &["key", "remove", &slot]),
        ("second", &["key", "remove", &slot, "--remaining-key-file", text(&broken)]),
        ("first", &["key", "rotate", "--new-key-file", text(&scene.key("first"))]),
        ("first", &["keygen", "--to", text(&second)]),
        ("second", &["init", "--generate-key"]),
        ("first", &["check", "--level", "content", "--verbose"]),
        ("first", &["stats"]),
    ] {
        let mut command = scene.command(key, arguments);
        let output = command.env("VARVE_NEW_MASTER_KEY", &secrets[1]).output().expect("it can be started");
        seen.push(output.status.success());
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), complaint(&output));
        for secret in &secrets {
            assert!(!said.contains(&secret[..12]), "{arguments:?}: {said}");
        }
    }
    assert!(seen.iter().any(|success| *success) && seen.iter().filter(|success| !**success).count() >= 6, "{seen:?}");
    // Nor does anything in the repository.
    for entry in [scene.folder().join("repository"), scene.folder().join("repository.copy")] {
        let bytes = fs::read(entry).expect("it is there");
        for secret in &secrets {
            assert!(!String::from_utf8_lossy(&bytes).contains(&secret[..12]));
        }
    }
}
