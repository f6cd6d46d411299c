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

#[tokio::test]
async fn a_request_gets_its_answer_and_only_owner_and_group_may_ask() {
    let path = path("answer");
    let mut socket = Socket::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    let agent = async {
        let request = socket.request().await;
        assert_eq!(request.line, b"{\"verb\":\"status\"}\n");
        request
            .answer
            .send(r#"{"ok":true,"result":7}"#.into())
            .unwrap();
        let request = socket.request().await;
        let refusal = r#"{"ok":false,"error":{"kind":"x","detail":"no"}}"#;
        request.answer.send(refusal.into()).unwrap();
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
