//! Strangers flood the secured port, from addresses that are not theirs.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Addresses that are used at a time.
const SOCKETS: usize = 200;
/// Hellos that may wait for their answer, so that none is lost at the agent's socket.
const OUTSTANDING: usize = 64;

/// Whoever floods.
struct Flood {
    server: SocketAddr,
    rng: StdRng,
}

impl Flood {
    /// So many hellos, each with an answer, and as many single bytes.
    fn send(&mut self, count: usize) {
        let mut sent = 0;
        while sent < count {
            let batch = SOCKETS.min(count - sent);
            let sockets: Vec<_> = (0..batch).map(|_| self.socket()).collect();
            // Each address is used for several hellos: a socket is not to be had for nothing.
            for _ in 0..10 {
                for group in sockets.chunks(OUTSTANDING) {
                    let mut asked = 0;
                    for socket in group {
                        asked = socket.send(&self.hello()).unwrap();
                        socket.send(&[self.rng.random()]).unwrap();
                    }
                    for socket in group {
                        let mut answer = [0; 1500];
                        let length = socket.recv(&mut answer).expect("a HelloVerifyRequest");
                        // Less than was asked, and nothing but a cookie.
                        assert!(length < asked && answer[0] == 22 && answer[13] == 3);
                    }
                    sent += group.len();
                }
            }
        }
    }

    /// At an address that is nobody's.
    fn socket(&mut self) -> UdpSocket {
        let host = Ipv4Addr::new(127, self.rng.random_range(1..255), self.rng.random(), 1);
        let socket = UdpSocket::bind((host, 0)).unwrap();
        socket.connect(self.server).unwrap();
        let patience = Some(Duration::from_secs(5));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    /// A first ClientHello of DTLS 1.2, without cookie, that offers what we serve (RFC 6347 §4.2).
    fn hello(&mut self) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend(self.rng.random::<[u8; 32]>());
        // No session id, no cookie, two suites, no compression, and a connection ID is offered.
        body.extend([0, 0, 0, 4, 0xc0, 0xa8, 0x00, 0xae, 1, 0]);
        body.extend([0, 5, 0, 54, 0, 1, 0]);
        let length = u8::try_from(body.len()).unwrap();
        let mut hello = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, length + 12];
        hello.extend([1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length]);
        hello.extend(body);
        hello
    }
}

/// What the agent's process has in memory, in kB.
fn resident(agent: &Agent) -> i64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.0.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_hundred_thousand_hellos_from_everywhere_leave_no_trace() {
    const HELLOS: usize = 100_000;
    /// What the heap and the messages of the device that is served may make of it, in kB.
    const TOLERANCE: i64 = 1_024;
    let broker = Broker::start();
    let home = Home::secured("flood", broker.port, "");
    home.set("level = \"trace\"", "level = \"info\"");
    add(&home, "sec-0");
    add(&home, "new-0");
    let agent = home.start();
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    let device = Device::with_key(&home, "sec-", KEY);
    consumer.wait_for(|got| got.topic == VALUE).await;

    let begun = Instant::now();
    let mut flood = Flood {
        server: ([127, 0, 0, 1], home.coaps).into(),
        rng: StdRng::seed_from_u64(4),
    };
    flood.send(HELLOS / 10);
    let counter = |name: &str| home.json(&["status"])["counters"][name].as_u64().unwrap();
    let before = (resident(&agent), counter("dtls_hello_verify_requests"));
    let flooding = tokio::task::spawn_blocking(move || flood.send(HELLOS));

    // Meanwhile the device is served, and another one comes in.
    consumer.wait_for(|got| got.topic == VALUE).await;
    let newcomer = Device::with_key(&home, "new-", KEY);
    let value = VALUE.replace("sec-0", "new-0");
    consumer.wait_for(|got| got.topic == value).await;
    consumer.wait_for(|got| got.topic == VALUE).await;
    assert!(!flooding.is_finished(), "the flood was over too early");
    flooding.await.unwrap();

    let after = (resident(&agent), counter("dtls_hello_verify_requests"));
    let spent = begun.elapsed();
    assert!(after.1 - before.1 >= HELLOS as u64);
    assert!(counter("dtls_short_datagrams") >= HELLOS as u64);
    assert_eq!(home.json(&["status"])["sessions"], 2);
    assert_eq!(counter("dtls_handshakes_started"), 2);
    assert!(
        after.0 - before.0 <= TOLERANCE,
        "{} kB before, {} kB after",
        before.0,
        after.0
    );
    assert!(spent < Duration::from_secs(20), "{spent:?}");
    assert!(!home.log().contains("no secure session"), "{}", home.log());
    consumer.wait_for(|got| got.topic == VALUE).await;
    assert_eq!(device.said("secured").len(), 1);
    println!(
        "{HELLOS} hellos in {spent:?}; {} kB resident before, {} kB after",
        before.0, after.0
    );
    drop((agent, newcomer));
}
