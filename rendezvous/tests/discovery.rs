//! The rendezvous as a server that shows what a NAT does, asked over loopback, where there is none.

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::behaviour::{Behaviour, Dependence, Discovery, Kind, Ports};
use rendezvous::{Config, Directory, Second, Server};
use transport::discovery::{Depth, discover};

fn start(listen: &str, second_address: Option<&str>) -> (Server, SocketAddr) {
    let second = second_address.map(|text| text.parse().expect("an address"));
    let config = Config {
        listen: listen.parse().expect("an address"),
        second_address: second.map_or(Second::Auto, Second::At),
        ..Config::default()
    };
    let server = Server::start(&config, Arc::<Directory>::default()).expect("a rendezvous");
    let mut address = server.local_addr();
    if address.ip().is_unspecified() {
        address.set_ip("127.0.0.1".parse().expect("an address"));
    }
    (server, address)
}

#[tokio::test]
async fn an_open_network_is_told_by_two_addresses() {
    let open = Behaviour {
        translated: Some(false),
        mapping: Some(Dependence::Independent),
        filtering: Some(Dependence::Independent),
        ports: Some(Ports::Preserved),
        takes_unsolicited: Some(false),
        hairpin: None,
    };
    for (listen, second) in [
        ("127.0.0.1:0", None),
        ("127.0.0.1:0", Some("127.0.0.2")),
        ("0.0.0.0:0", None),
        ("[::]:0", None),
        ("[::1]:0", None),
    ] {
        let (server, address) = start(listen, second);
        let report = discover(address, Depth::Full).await.expect("an answer");
        assert_eq!(report.behaviour, open, "{listen} {report:?}");
        assert_eq!(report.behaviour.kind(), Kind::Open);
        assert_eq!(report.local, report.external);
        assert!(report.second_port && report.second_address == second.is_some());
        // Every answer came: nothing had to be waited for.
        assert!(report.rtt < Discovery::QUICK);
        let quick = discover(address, Depth::Quick).await.expect("an answer");
        assert_eq!(quick.behaviour.mapping, open.mapping);
        server.stop().await;
    }
}

#[tokio::test]
async fn without_a_second_port_it_serves_all_the_same() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let port = taken.local_addr().expect("bound").port();
    for second_port in [Second::At(port), Second::Off] {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { listen, second_port, ..Config::default() };
        let server = Server::start(&config, Arc::<Directory>::default()).expect("a rendezvous");
        let report = discover(server.local_addr(), Depth::Full).await.expect("an answer");
        assert!(!report.second_port && !report.second_address);
        assert_eq!(report.behaviour.mapping, None);
        assert_eq!(report.behaviour.translated, Some(false));
        server.stop().await;
    }
}
