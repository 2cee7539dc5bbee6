//! Small clients of our own: HTTP/1.1 with keep-alive, the Redis protocol, lines of text. They check every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Whom to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl From<u16> for Peer {
    /// A port of this machine.
    fn from(port: u16) -> Peer {
        Peer(([127, 0, 0, 1], port).into())
    }
}

/// A connection with time limits.
pub struct Wire {
    reader: BufReader<TcpStream>,
}

impl Wire {
    /// Connects.
    pub fn dial(peer: impl Into<Peer>) -> Result<Wire, String> {
        let Peer(address) = peer.into();
        Wire::over(TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(|e| format!("connect: {e}"))?)
    }

    /// Takes over a connection.
    pub fn over(stream: TcpStream) -> Result<Wire, String> {
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Wire { reader: BufReader::new(stream) })
    }

    /// Another limit for each read.
    pub fn read_limit(&self, limit: Duration) -> Result<(), String> {
        self.reader.get_ref().set_read_timeout(Some(limit)).map_err(|e| e.to_string())
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.reader.get_mut().write_all(bytes).map_err(|e| format!("send: {e}"))
    }

    /// One line, without its end.
    pub fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Err("the connection was closed".into()),
            Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
            Err(e) => Err(format!("receive: {e}")),
        }
    }

    /// Exactly so many bytes.
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).map_err(|e| format!("receive: {e}"))?;
        Ok(bytes)
    }

    /// All until the other side closes.
    pub fn rest(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes).map_err(|e| format!("receive: {e}"))?;
        Ok(bytes)
    }

    /// Sends a line and gives the answer's line.
    pub fn ask(&mut self, line: &str) -> Result<String, String> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.line()
    }

    /// An HTTP request on a connection that stays open; status and body.
    pub fn get(&mut self, path: &str) -> Result<(u16, Vec<u8>), String> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: keep-alive\r\n\r\n").as_bytes())?;
        self.answer()
    }

    /// The same without taking the body: its length, which must be told.
    pub fn get_head(&mut self, path: &str) -> Result<u64, String> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: keep-alive\r\n\r\n").as_bytes())?;
        match self.head()? {
            (200, Some(length)) => Ok(length as u64),
            (code, _) => Err(format!("{path}: status {code}")),
        }
    }

    /// An HTTP answer; status and body.
    pub fn answer(&mut self) -> Result<(u16, Vec<u8>), String> {
        let (code, length) = self.head()?;
        let body = match length {
            Some(count) => self.exactly(count)?,
            None => self.rest()?,
        };
        Ok((code, body))
    }

    /// Status and length of the body.
    fn head(&mut self) -> Result<(u16, Option<usize>), String> {
        let status = self.line()?;
        let code = status
            .split(' ')
            .nth(1)
            .and_then(|c| c.parse().ok())
            .ok_or_else(|| format!("odd status line {status:?}"))?;
        let mut length = None;
        loop {
            let header = self.line()?;
            if header.is_empty() {
                return Ok((code, length));
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
    }

    /// So many bytes in pieces, as they come.
    pub fn each(&mut self, count: u64, mut take: impl FnMut(&[u8])) -> Result<(), String> {
        let mut left = count;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let now = left.min(buffer.len() as u64) as usize;
            match self.reader.read(&mut buffer[..now]) {
                Ok(0) => return Err(format!("closed with {left} bytes to come")),
                Ok(n) => {
                    take(&buffer[..n]);
                    left -= n as u64;
                }
                Err(e) => return Err(format!("receive, {left} bytes to come: {e}")),
            }
        }
        Ok(())
    }
}

/// One HTTP request on a connection of its own, which must give 200.
pub fn http_get(peer: impl Into<Peer>, path: &str) -> Result<Vec<u8>, String> {
    match Wire::dial(peer)?.get(path)? {
        (200, body) => Ok(body),
        (code, body) => {
            Err(format!("{path}: status {code}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])))
        }
    }
}

/// An answer of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status line.
    Status(String),
    /// An error line.
    Error(String),
    /// A number.
    Int(i64),
    /// Bytes, or nothing.
    Bulk(Option<Vec<u8>>),
    /// Several.
    Array(Vec<Reply>),
}

impl Reply {
    /// Bytes as text, a status as text.
    pub fn text(&self) -> String {
        match self {
            Reply::Status(s) | Reply::Error(s) => s.clone(),
            Reply::Int(n) => n.to_string(),
            Reply::Bulk(Some(b)) => String::from_utf8_lossy(b).into_owned(),
            Reply::Bulk(None) => String::new(),
            Reply::Array(a) => a.iter().map(Reply::text).collect::<Vec<_>>().join(" "),
        }
    }
}

/// A Redis connection.
pub struct Redis(pub Wire);

impl Redis {
    /// Connects.
    pub fn dial(peer: impl Into<Peer>) -> Result<Redis, String> {
        Wire::dial(peer).map(Redis)
    }

    /// Sends a command and gives its answer.
    pub fn call(&mut self, command: &[&str]) -> Result<Reply, String> {
        let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
        for word in command {
            bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
        }
        self.0.send(&bytes)?;
        self.reply()
    }

    /// The command must give exactly this text.
    pub fn expect(&mut self, command: &[&str], text: &str) -> Result<(), String> {
        let got = self.call(command)?.text();
        if got == text { Ok(()) } else { Err(format!("{} gave {got:?}, expected {text:?}", command.join(" "))) }
    }

    /// One `name:value` of INFO.
    pub fn info(&mut self, section: &str, name: &str) -> Result<String, String> {
        let text = self.call(&["INFO", section])?.text();
        let found =
            text.lines().find_map(|l| l.strip_prefix(name).and_then(|r| r.strip_prefix(':')).map(str::to_owned));
        found.ok_or_else(|| format!("INFO {section} has no {name}"))
    }

    fn reply(&mut self) -> Result<Reply, String> {
        let line = self.0.line()?;
        let Some(kind) = line.chars().next() else { return Err("an empty answer".into()) };
        let rest = &line[kind.len_utf8()..];
        let number = || rest.parse::<i64>().map_err(|_| format!("odd answer {line:?}"));
        Ok(match kind {
            '+' => Reply::Status(rest.to_owned()),
            '-' => Reply::Error(rest.to_owned()),
            ':' => Reply::Int(number()?),
            '$' => match usize::try_from(number()?) {
                Err(_) => Reply::Bulk(None),
                Ok(count) => {
                    let mut bytes = self.0.exactly(count + 2)?;
                    bytes.truncate(count);
                    Reply::Bulk(Some(bytes))
                }
            },
            '*' => Reply::Array((0..number()?).map(|_| self.reply()).collect::<Result<_, _>>()?),
            _ => return Err(format!("odd answer {line:?}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn server(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut s, _) = listener.accept().unwrap();
            let mut asked = [0; 512];
            let _ = s.read(&mut asked);
            s.write_all(answer).unwrap();
        });
        port
    }

    #[test]
    fn redis_answers() {
        let port = server(b"*3\r\n:7\r\n$3\r\nabc\r\n$-1\r\n");
        let reply = Redis::dial(port).unwrap().call(&["X"]).unwrap();
        assert_eq!(reply, Reply::Array(vec![Reply::Int(7), Reply::Bulk(Some(b"abc".to_vec())), Reply::Bulk(None)]));
        assert!(Redis::dial(server(b"-ERR no\r\n")).unwrap().expect(&["X"], "OK").is_err());
        assert!(Redis::dial(server(b"")).unwrap().call(&["X"]).is_err());
    }

    #[test]
    fn http_answers() {
        assert_eq!(http_get(server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), "/").unwrap(), b"hi");
        assert!(http_get(server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "/").is_err());
        assert!(http_get(server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi"), "/").is_err());
    }
}
