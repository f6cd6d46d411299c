//! Images get to devices: through the command line, and fetched by HTTP and by CoAP.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use lwm2mqtt::coap::{Code, Endpoint, Event, Limits, Output, Parameters, Peer, Request, Response};
use lwm2mqtt::route::Route;
use lwm2mqtt::time::Instant;
use serde_json::Value as Json;

use crate::broker::{Broker, Subscriber};
use crate::home::Home;

/// Writes an image and gives its path and content.
fn image(home: &Home, size: usize) -> (String, Vec<u8>) {
    let content: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
    let path = home.folder.join("app-2.1.bin");
    fs::write(&path, &content).unwrap();
    (path.to_str().unwrap().to_owned(), content)
}

#[tokio::test]
async fn an_image_is_pushed_from_the_command_line_and_installed() {
    let broker = Broker::start();
    let home = Home::new("push", broker.port, "join = \"open\"");
    let _agent = home.start();
    let (path, _) = image(&home, 300_000);
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/d/#").await;
    let _device = home.simulate("sim-");
    consumer
        .wait_for(|got| got.topic == "lwm2mqtt/d/sim-0/availability")
        .await;
    let said = home.ok(&["firmware", "push", "sim-0", &path]);
    assert!(said.starts_with("sim-0: "), "{said}");
    assert!(
        said.ends_with("sim-0: done, app-2.1.bin: updated\n"),
        "{said}"
    );
    let done = consumer
        .wait_for(|got| got.topic == "lwm2mqtt/d/sim-0/fw" && got.payload.contains("\"done\""))
        .await;
    let told: Json = serde_json::from_str(&done.payload).unwrap();
    assert_eq!(
        (&told["bytes"], &told["result"]),
        (&300_000.into(), &1.into())
    );
    assert_eq!(home.json(&["firmware", "status", "sim-0"])["state"], "done");
    // The image stays, for the next device.
    let images = home.json(&["firmware", "list"]);
    assert_eq!(images[0]["name"], "app-2.1.bin");
    let kept: Vec<_> = fs::read_dir(home.folder.join("store/firmware"))
        .unwrap()
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(home.mode("store/firmware"), 0o700);
    home.ok(&["firmware", "remove", "app-2.1.bin"]);
    let missing = home.fails(1, &["firmware", "push", "sim-0", "app-2.1.bin"]);
    assert!(missing.contains("no image is called"), "{missing}");
}

/// A device that takes the place of an image and fetches it when the test wants.
struct Device {
    socket: UdpSocket,
    server: SocketAddr,
    endpoint: Endpoint,
    begun: std::time::Instant,
    protocol: u8,
    uri: Option<String>,
    responses: Vec<Response>,
}

impl Device {
    fn register(home: &Home, name: &str, protocol: u8) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wait = Some(Duration::from_millis(20));
        socket.set_read_timeout(wait).unwrap();
        let mut device = Self {
            socket,
            server: ([127, 0, 0, 1], home.coap).into(),
            endpoint: Endpoint::new(Parameters::default(), Limits::default(), [3; 32]),
            begun: std::time::Instant::now(),
            protocol,
            uri: None,
            responses: Vec::new(),
        };
        let mut register = Request::new(Code::POST, ["rd"]);
        register.query = vec![
            format!("ep={name}"),
            "lwm2m=1.1".to_owned(),
            "lt=300".to_owned(),
        ];
        register.content_format = Some(40);
        register.payload = b"</>;ct=110,</1/0>,</3/0>,</5/0>".to_vec();
        assert_eq!(device.ask(register).code, Code::CREATED);
        device
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.begun.elapsed().as_micros() as u64)
    }

    fn peer(&self) -> Peer {
        Peer::Route(Route {
            listener: 0,
            address: self.server,
        })
    }

    fn ask(&mut self, request: Request) -> Response {
        let (now, peer) = (self.now(), self.peer());
        self.endpoint.request(now, peer, request).unwrap();
        self.until(|device| !device.responses.is_empty());
        self.responses.remove(0)
    }

    fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let begun = std::time::Instant::now();
        let mut buffer = [0; 2048];
        while !is_so(self) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            while let Some(output) = self.endpoint.poll() {
                match output {
                    Output::Datagram { bytes, .. } => {
                        self.socket.send_to(&bytes, self.server).unwrap();
                    }
                    Output::Event(Event::Request {
                        incoming, request, ..
                    }) => {
                        let response = self.answer(&request);
                        let now = self.now();
                        self.endpoint.respond(now, incoming, response);
                    }
                    Output::Event(Event::Response { result, .. }) => {
                        self.responses.push(result.unwrap());
                    }
                    Output::Event(_) => {}
                }
            }
            if let Ok((length, _)) = self.socket.recv_from(&mut buffer) {
                let (now, peer) = (self.now(), self.peer());
                self.endpoint.receive(now, peer, &buffer[..length]);
            }
            let now = self.now();
            self.endpoint.timeout(now);
        }
    }

    fn answer(&mut self, request: &Request) -> Response {
        let path = request.path.join("/");
        match (request.method, path.as_str()) {
            (Code::GET, "5/0") => Response {
                content_format: Some(110),
                payload: format!(
                    r#"[{{"bn":"/5/0/","n":"3","v":{}}},{{"n":"5","v":0}},{{"n":"8/0","v":{}}},{{"n":"9","v":0}}]"#,
                    u8::from(self.uri.is_some()),
                    self.protocol,
                )
                .into_bytes(),
                ..Response::new(Code::CONTENT)
            },
            (Code::PUT, "5/0/1") => {
                let records: Json = serde_json::from_slice(&request.payload).unwrap();
                let uri = records[0]["vs"].as_str().unwrap().to_owned();
                self.uri = Some(uri).filter(|uri| !uri.is_empty());
                Response::new(Code::CHANGED)
            }
            _ => Response::new(Code::NOT_FOUND),
        }
    }
}

/// One HTTP exchange: head, and body.
fn http(address: &str, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let at = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(all[..at].to_vec()).unwrap();
    (head.to_lowercase(), all[at + 4..].to_vec())
}

// conformance: 1.1-int-756
#[test]
fn a_device_fetches_its_image_by_coap_in_blocks() {
    let home = Home::new("coap-pull", 1, "join = \"open\"");
    let _agent = home.start();
    let (path, content) = image(&home, 100_000);
    let mut device = Device::register(&home, "puller", 0);
    home.ok(&["firmware", "update", "puller", &path, "--detach"]);
    device.until(|device| device.uri.is_some());
    let uri = device.uri.clone().unwrap();
    let place = format!("coap://127.0.0.1:{}/", home.coap);
    let token = uri.strip_prefix(&place).unwrap_or_else(|| panic!("{uri}"));
    let fetched = device.ask(Request::new(Code::GET, token.split('/')));
    assert_eq!(
        (fetched.code, fetched.payload.len()),
        (Code::CONTENT, content.len())
    );
    assert!(fetched.payload == content);
    home.wait(|| home.json(&["firmware", "status", "puller"])["percent"] == 100);
    let other = device.ask(Request::new(Code::GET, ["fw", "00"]));
    assert_eq!(other.code, Code::NOT_FOUND);
}

// conformance: 1.1-int-756
#[test]
fn a_device_fetches_its_image_by_http_in_ranges() {
    let section = "join = \"open\"\n[firmware]\nhttp = \"127.0.0.1:0\"";
    let home = Home::new("http-pull", 1, section);
    let _agent = home.start();
    let (path, content) = image(&home, 300_000);
    let mut device = Device::register(&home, "puller", 2);
    home.ok(&["firmware", "pull", "puller", &path, "--detach"]);
    device.until(|device| device.uri.is_some());
    let uri = device.uri.clone().unwrap();
    let (address, target) = uri
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .unwrap_or_else(|| panic!("{uri}"));
    let get = |method: &str, target: &str, headers: &str| {
        http(
            address,
            &format!(
                "{method} /{target} HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n{headers}\r\n"
            ),
        )
    };
    let (head, body) = get("HEAD", target, "");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-length: 300000"), "{head}");
    assert!(body.is_empty());
    let (head, first) = get("GET", target, "range: bytes=0-199999\r\n");
    assert!(head.starts_with("http/1.1 206"), "{head}");
    assert!(
        head.contains("content-range: bytes 0-199999/300000"),
        "{head}"
    );
    let (_, rest) = get("GET", target, "range: bytes=200000-\r\n");
    assert!([first, rest].concat() == content);
    let (head, whole) = get("GET", target, "");
    assert!(
        head.starts_with("http/1.1 200") && whole == content,
        "{head}"
    );
    let (head, _) = get("GET", target, "range: bytes=300000-\r\n");
    assert!(head.starts_with("http/1.1 416"), "{head}");
    let (head, _) = get("GET", "fw/00", "");
    assert!(head.starts_with("http/1.1 404"), "{head}");
    let (head, _) = get("POST", target, "content-length: 0\r\n");
    assert!(head.starts_with("http/1.1 405"), "{head}");
    home.wait(|| home.json(&["firmware", "status", "puller"])["percent"] == 100);
    home.ok(&["firmware", "cancel", "puller"]);
    let (head, _) = get("GET", target, "");
    assert!(head.starts_with("http/1.1 404"), "{head}");
}
