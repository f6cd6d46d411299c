//! The socket itself.

use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use super::*;

fn path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("lwm2mqtt-admin-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder.join("deep").join("admin.sock")
}

/// Asks from a thread of its own, as another process does.
async fn asked(path: &Path, request: serde_json::Value) -> Asked {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || ask(&path, &request).unwrap())
        .await
        .unwrap()
}

/// The next request; who has gone is passed over.
async fn asking(socket: &mut Socket) -> Request {
    loop {
        if let Heard::Request(request) = socket.hear().await {
            return request;
        }
    }
}

#[tokio::test]
async fn a_request_gets_its_answer_and_only_owner_and_group_may_ask() {
    let path = path("answer");
    let mut socket = Socket::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    let agent = async {
        let request = asking(&mut socket).await;
        assert_eq!(request.line, b"{\"verb\":\"status\"}\n");
        request.answer.end(r#"{"ok":true,"result":7}"#.into());
        let request = asking(&mut socket).await;
        let refusal = r#"{"ok":false,"error":{"kind":"x","detail":"no"}}"#;
        request.answer.end(refusal.into());
    };
    let person = async {
        let first = asked(&path, json!({ "verb": "status" })).await;
        assert!(matches!(first, Asked::Done(result) if result == 7));
        let second = asked(&path, json!({ "verb": "status" })).await;
        assert!(matches!(second, Asked::Refused(detail) if detail == "no"));
    };
    tokio::join!(agent, person);
    drop(socket);
    assert!(!path.exists());
    let nobody = asked(&path, json!({})).await;
    assert!(matches!(nobody, Asked::Nobody));
}

#[tokio::test]
async fn a_socket_that_a_dead_agent_left_is_replaced_and_a_living_one_is_not() {
    let path = path("stale");
    let living = Socket::bind(&path).unwrap();
    let second = Socket::bind(&path).err().unwrap().to_string();
    assert!(second.contains("another lwm2mqtt answers"), "{second}");
    // As a killed process does: the name stays, nobody listens.
    living.task.abort();
    std::mem::forget(living);
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(Socket::bind(&path).unwrap());
    std::fs::write(&path, "a file").unwrap();
    let third = Socket::bind(&path).err().unwrap().to_string();
    assert!(third.contains("no socket"), "{third}");
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let path = path("long");
    let _socket = Socket::bind(&path).unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let mut answer = String::new();
    let (mut read, mut write) = stream.split();
    let flood = vec![b'x'; REQUEST_MAX as usize + 2];
    let (_, read) = tokio::join!(write.write_all(&flood), read.read_to_string(&mut answer));
    // Closing on what was not read is an error to the sender (unix(7)), after the answer.
    let _ = read;
    assert!(answer.contains("too long"), "{answer}");
}

#[tokio::test]
async fn an_answer_of_many_lines_goes_on_until_its_last_and_the_end_of_the_asker_is_heard() {
    let path = path("lines");
    let mut socket = Socket::bind(&path).unwrap();
    let agent = async {
        let mut first = asking(&mut socket).await;
        for number in 1..=3 {
            let line = format!("{{\"ok\":true,\"more\":true,\"result\":{number}}}");
            first.answer.say(line);
        }
        first.answer.end(r#"{"ok":true,"result":"last"}"#.into());
        let mut second = asking(&mut socket).await;
        second
            .answer
            .say(r#"{"ok":true,"more":true,"result":1}"#.into());
        // Its asker goes in the middle.
        while !matches!(socket.hear().await, Heard::Left(id) if id == second.id) {}
    };
    let asker = path.clone();
    let person = tokio::task::spawn_blocking(move || {
        let forever = Some(Duration::from_secs(20));
        let mut first = Conversation::begin(&asker, &json!({})).unwrap().unwrap();
        let mut lines = Vec::new();
        while let Some(Line::Said(line)) = first.next(forever).unwrap() {
            let is_last = line == "last";
            lines.push(line);
            if is_last {
                break;
            }
        }
        assert_eq!(lines, [json!(1), json!(2), json!(3), json!("last")]);
        drop(first);
        let mut second = Conversation::begin(&asker, &json!({})).unwrap().unwrap();
        assert_eq!(second.next(forever).unwrap(), Some(Line::Said(json!(1))));
        assert_eq!(second.next(Some(Duration::from_millis(20))).unwrap(), None);
    });
    let (person, ()) = tokio::join!(person, agent);
    person.unwrap();
}

#[test]
fn one_who_reads_slowly_is_told_how_much_was_lost_and_gets_the_last_line() {
    let (mut answer, mut heard) = Answer::new().unwrap();
    for number in 0..LINES + 7 {
        answer.say(number.to_string());
    }
    for number in 0..LINES {
        assert_eq!(heard.try_recv().unwrap(), number.to_string());
    }
    answer.say("later".into());
    assert_eq!(
        heard.try_recv().unwrap(),
        r#"{"ok":true,"more":true,"lost":7}"#
    );
    assert_eq!(heard.try_recv().unwrap(), "later");
    for _ in 0..=LINES {
        answer.say("again".into());
    }
    answer.end("last".into());
    assert_eq!(heard.len(), LINES + 1);
    for _ in 0..LINES {
        heard.try_recv().unwrap();
    }
    assert_eq!(heard.try_recv().unwrap(), "last");
}
