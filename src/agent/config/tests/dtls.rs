//! `[devices] cert_file`, `key` and `ca_file`.

use super::*;

/// What is said of a configuration with these lines under `[devices]`: code and line of each.
fn found(folder: &Folder, lines: &str) -> Vec<(String, Diagnostic)> {
    let text = format!("[devices]\ncoaps = [\"[::]:5684\"]\n{lines}");
    let file = folder.write("main.toml", &text);
    let diagnostics = Config::load_from(&sources(Some(file), &[])).diagnostics;
    let place = |found: &Diagnostic| found.place.as_ref().map_or(0, |place| place.line);
    diagnostics
        .into_iter()
        .map(|found| (format!("{} {}", found.code, place(&found)), found))
        .collect()
}

#[test]
fn what_devices_are_to_trust_is_checked_where_it_is_named() {
    let folder = Folder::new("dtls");
    let [ca, cert, key] = certificates();
    let [_, other, _] = certificates();
    let files = [
        ("ca.pem", ca.as_str()),
        ("cert.pem", &cert),
        ("key.pem", &key),
        ("other.pem", &other),
        ("junk.pem", "junk"),
    ];
    for (name, content) in files {
        only_for_the_owner(&folder.write(name, content));
    }
    let lines = |cert: &str, key: &str, ca: &str| {
        let path = |name| folder.0.join(name);
        format!(
            "cert_file = {:?}\nkey = {{ file = {:?} }}\nca_file = {:?}\n",
            path(cert),
            path(key),
            path(ca)
        )
    };
    for (files, expected) in [
        (["cert.pem", "key.pem", "ca.pem"], vec![]),
        (
            ["absent", "key.pem", "junk.pem"],
            vec!["bad-certificate 3", "bad-certificate 5"],
        ),
        (["junk.pem", "key.pem", "ca.pem"], vec!["bad-certificate 3"]),
        (
            ["cert.pem", "absent", "ca.pem"],
            vec!["unreadable-secret 4"],
        ),
        #[cfg(feature = "dtls")]
        (
            ["other.pem", "key.pem", "ca.pem"],
            vec!["bad-certificate 3"],
        ),
        #[cfg(feature = "dtls")]
        (
            ["cert.pem", "junk.pem", "ca.pem"],
            vec!["bad-certificate 3"],
        ),
    ] {
        let found = found(&folder, &lines(files[0], files[1], files[2]));
        let codes: Vec<&str> = found.iter().map(|(code, _)| code.as_str()).collect();
        assert_eq!(codes, expected, "{files:?}: {found:?}");
        for (_, found) in &found {
            assert!(!found.message.is_empty() && !found.hint.is_empty());
            assert!(!found.render(false).contains("PRIVATE"), "{found}");
        }
    }
    let cert = format!("cert_file = {:?}\n", folder.0.join("cert.pem"));
    let key = format!("key = {{ file = {:?} }}\n", folder.0.join("key.pem"));
    for (line, words) in [
        (&cert, "without its private key"),
        (&key, "without its certificate"),
    ] {
        let found = found(&folder, line);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].1.message.contains(words));
        assert_eq!(found[0].0, "bad-certificate 3");
    }
}
