//! A static web server for the end-to-end suite, one thread for each connection: /hello, /large, and /quit, which
//! ends it with code 9.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

fn serve(stream: TcpStream, large: &[u8]) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let (status, body): (&str, &[u8]) = match request.split(' ').nth(1) {
            Some("/hello") => ("200 OK", b"hello from a static server\n"),
            Some("/large") => ("200 OK", large),
            Some("/quit") => std::process::exit(9),
            _ => ("404 Not Found", b"no such page\n"),
        };
        out.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes())?;
        out.write_all(body)?;
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|p| p.parse().ok()).unwrap_or(8081);
    let large: Arc<Vec<u8>> = Arc::new((0..3_000_000u32).map(|i| (i.wrapping_mul(7) >> 3) as u8).collect());
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for stream in listener.incoming() {
        let (stream, large) = (stream?, large.clone());
        std::thread::spawn(move || serve(stream, &large));
    }
    Ok(())
}
