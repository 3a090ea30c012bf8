//! A router whose answers about port mapping are of no use.
//!
//! - `lab-bad-router private` answers NAT-PMP, with a private external address, and nothing else.
//! - `lab-bad-router broken` answers everything: PCP, NAT-PMP and UPnP searches with odd bytes, and HTTP
//!   requests with documents without end, of many levels, or with nothing.
//!
//! Prints `ready`.

use std::{
    env,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::bail;
use crab_nat::GATEWAY_PORT;

const SEARCH_PORT: u16 = 1900;
const HTTP_PORT: u16 = 5000;
/// Where NAT-PMP says that the router is.
const PRIVATE_ADDRESS: [u8; 4] = [10, 0, 0, 2];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let control = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, GATEWAY_PORT))?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["private"] => {
            println!("ready");
            answer(&control, |_, request| vec![private(request)])
        }
        ["broken"] => {
            let searches = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SEARCH_PORT))?;
            let http = TcpListener::bind((Ipv4Addr::UNSPECIFIED, HTTP_PORT))?;
            println!("ready");
            thread::spawn(move || serve(&http));
            thread::spawn(move || answer(&searches, |_, _| locations()));
            answer(&control, |number, request| vec![odd(number, request)])
        }
        _ => bail!("expected `private` or `broken`, got {arguments:?}"),
    }
}

/// Answers each datagram for ever, with what its number and bytes are answered with.
fn answer(
    socket: &UdpSocket,
    answers: impl Fn(usize, &[u8]) -> Vec<Vec<u8>>,
) -> anyhow::Result<()> {
    let mut buffer = [0; 2048];
    for number in 0.. {
        let (length, source) = socket.recv_from(&mut buffer)?;
        for answer in answers(number, &buffer[..length]) {
            socket.send_to(&answer, source)?;
        }
    }
    Ok(())
}

/// RFC 6886, section 3.2, for those who ask for the address; "unsupported version" for PCP.
fn private(request: &[u8]) -> Vec<u8> {
    match request {
        [0, 0] => [&[0, 128, 0, 0, 0, 0, 0, 9][..], &PRIVATE_ADDRESS].concat(),
        [0, ..] => vec![0, 129, 0, 2, 0, 0, 0, 9],
        _ => vec![0, 128, 0, 1, 0, 0, 0, 9],
    }
}

/// Almost an answer.
fn odd(number: usize, request: &[u8]) -> Vec<u8> {
    let mut granted = vec![2, 0x81, 0, 0];
    // No lifetime; then the request's own nonce, protocol and port, and external port 0.
    granted.extend([0; 20]);
    granted.extend(request.get(24..42).unwrap_or_default());
    granted.resize(60, 0);
    match number % 6 {
        0 => granted,
        1 => vec![],
        2 => vec![0xff; 1100],
        3 => request.to_vec(),
        4 => granted[..59].to_vec(),
        _ => [&[0, 129, 0, 0][..], &[0xff; 12]].concat(),
    }
}

/// To the router itself, to others, and to nowhere.
fn locations() -> Vec<Vec<u8>> {
    [
        "http://192.168.1.1:5000/deep",
        "http://192.168.1.1:5000/endless",
        "http://127.0.0.1:5000/",
        "http://[",
        "file:///etc/passwd",
    ]
    .iter()
    .map(|location| format!("HTTP/1.1 200 OK\r\nLOCATION: {location}\r\n\r\n").into_bytes())
    .chain([vec![0xff; 1400], Vec::new()])
    .collect()
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        let peer = stream.peer_addr();
        // A client that has had enough closes the connection.
        thread::spawn(move || respond(stream, peer.ok()));
    }
}

fn respond(mut stream: TcpStream, peer: Option<SocketAddr>) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let text = String::from_utf8_lossy(&request[..length]);
    println!("asked by {peer:?}: {}", text.lines().next().unwrap_or_default());
    if text.starts_with("GET /deep") {
        let document = "<a>".repeat(200_000);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{document}", document.len())
    } else {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n<root>")?;
        loop {
            stream.write_all(&[b' '; 4096])?;
            thread::sleep(Duration::from_millis(1));
        }
    }
}
