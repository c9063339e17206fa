//! The certificate of the service that tells changed blocks, made as docs/kubernetes.md says.

use std::{fmt::Write as _, fs, path::Path, path::PathBuf, process::Command};

/// A certificate, its key and the authority that signed it, as files.
pub(crate) struct Certificate {
    folder: PathBuf,
}

impl Certificate {
    /// Makes all of it in a folder. It is of every address that a pod of the cluster may have too, since pods have no names
    /// here.
    ///
    /// # Panics
    /// Where `openssl` fails.
    pub(crate) fn make(folder: &Path) -> Self {
        let made = Self { folder: folder.to_owned() };
        let mut names = "subjectAltName=@names\n[names]\nDNS.1=varve-snapshot-metadata.varve-system.svc\n".to_owned();
        let pods = (1..=2).flat_map(|node| (1..=254).map(move |pod| format!("10.240.{node}.{pod}")));
        for (number, address) in pods.enumerate() {
            writeln!(names, "IP.{}={address}", number + 1).expect("text can grow");
        }
        fs::write(made.file("names"), names).expect("a file can be written");
        let (authority, request) =
            (["-subj", "/CN=varve-metadata-authority"], ["-subj", "/CN=varve-snapshot-metadata"]);
        let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"];
        let make = |kind: &[&str], subject: [&str; 2], key: &str, out: &str| {
            openssl(folder, &[&["req"], kind, &new, &subject, &["-keyout", key, "-out", out]].concat());
        };
        make(&["-x509", "-days", "30"], authority, "ca.key", "ca.crt");
        make(&["-new"], request, "metadata.key", "metadata.csr");
        let signed = ["x509", "-req", "-in", "metadata.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "30"];
        openssl(folder, &[&signed[..], &["-extfile", "names", "-out", "metadata.crt"]].concat());
        made
    }

    /// The certificate, in PEM.
    pub(crate) fn certificate(&self) -> String {
        self.read("metadata.crt")
    }

    /// Its key, in PEM.
    pub(crate) fn key(&self) -> String {
        self.read("metadata.key")
    }

    /// The authority, in PEM, in base64.
    pub(crate) fn authority(&self) -> String {
        openssl(&self.folder, &["base64", "-A", "-in", "ca.crt"])
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).expect("it was made")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output();
    let output = output.expect("openssl can be started");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}
