//! The web server of the matrix' image, one thread for each connection:
//! `GET /hello`; `GET /bulk/BYTES`; `POST /sum` (answers the sum of what was sent); `GET /disk` (reads the image's large file and all of
//! the root disk's file system that is readable as a device); `GET /write` (second disk, written, flushed and read back); `GET /info` (what the kernel says about the machine);
//! `GET /exit/CODE`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

#[path = "../src/pattern.rs"]
#[allow(dead_code)]
mod pattern;

use pattern::{BLOCK, Crc32, DATA_BYTES, DOWN, Pattern, SECOND_BYTES, WRITTEN};

const O_DIRECT: i32 = 0o40000;

fn reply(out: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    out.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

/// A result as an answer: its text, or status 500 with what went wrong.
fn answer(out: &mut TcpStream, result: Result<String, String>) -> io::Result<()> {
    match result {
        Ok(text) => reply(out, "200 OK", &text),
        Err(why) => reply(out, "500 Internal Server Error", &why),
    }
}

/// Reads `count` bytes (all, when absent) and sums them.
fn sum(from: &mut impl Read, count: Option<u64>) -> io::Result<(u64, u32)> {
    // page-aligned, as O_DIRECT wants it
    let mut store = vec![0u8; BLOCK + 4096];
    let start = store.as_ptr().align_offset(4096);
    let buffer = &mut store[start..start + BLOCK];
    let (mut crc, mut done) = (Crc32::new(), 0);
    while count.is_none_or(|c| done < c) {
        let want = count.map_or(BLOCK as u64, |c| (c - done).min(BLOCK as u64)) as usize;
        match from.read(&mut buffer[..want])? {
            0 => break,
            n => {
                crc.update(&buffer[..n]);
                done += n as u64;
            }
        }
    }
    Ok((done, crc.sum()))
}

fn word(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
}

/// The driver that a device's folder of /sys links to.
fn driver(device: &str) -> Option<String> {
    let link = fs::read_link(format!("{device}/device/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Names of the disks, and whether each is the second one.
fn disks() -> Vec<(String, bool)> {
    let mut names: Vec<String> = fs::read_dir("/sys/block")
        .map(|entries| entries.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect())
        .unwrap_or_default();
    names.retain(|name| !["loop", "ram", "sr", "fd"].iter().any(|other| name.starts_with(other)));
    names.sort();
    let sectors = (SECOND_BYTES / 512).to_string();
    names.into_iter().map(|name| (name.clone(), word(&format!("/sys/block/{name}/size")).as_ref() == Some(&sectors))).collect()
}

/// The image's large file; its content is checked by the client, who knows the sum.
fn disk() -> Result<String, String> {
    let started = Instant::now();
    let mut file = File::open("/matrix/data").map_err(|e| format!("/matrix/data: {e}"))?;
    let (bytes, crc) = sum(&mut file, None).map_err(|e| format!("/matrix/data: {e}"))?;
    if bytes != DATA_BYTES {
        return Err(format!("/matrix/data has {bytes} bytes"));
    }
    Ok(format!("{bytes} {crc:08x} {:.3}", started.elapsed().as_secs_f64()))
}

/// Writes the second disk, makes it durable, and reads it back from the device.
fn write() -> Result<String, String> {
    let all = disks();
    let name = all.iter().find(|(_, second)| *second).map(|(name, _)| name.clone());
    let name = name.ok_or_else(|| format!("no disk of {SECOND_BYTES} bytes among {all:?}"))?;
    let path = format!("/dev/{name}");
    let told = |e: io::Error| format!("{path}: {e}");
    let started = Instant::now();
    let mut file = OpenOptions::new().write(true).open(&path).map_err(told)?;
    Pattern::new(WRITTEN).each(SECOND_BYTES, |piece| file.write_all(piece)).map_err(told)?;
    file.sync_all().map_err(told)?;
    drop(file);
    let seconds = started.elapsed().as_secs_f64();
    let mut file = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(&path).map_err(told)?;
    file.seek(SeekFrom::Start(0)).map_err(told)?;
    let (bytes, crc) = sum(&mut file, None).map_err(told)?;
    Ok(format!("{bytes} {crc:08x} {seconds:.3}"))
}

fn info() -> String {
    let first_disk = disks().into_iter().find(|(_, second)| !second).map(|(name, _)| name).unwrap_or_default();
    let mut rows = vec![
        ("hypervisor", word("/sys/hypervisor/type")),
        ("told_by", word("/sys/hypervisor/told_by")),
        ("nic", driver("/sys/class/net/eth0")),
        ("disk", driver(&format!("/sys/block/{first_disk}"))),
        ("cmdline", word("/proc/cmdline")),
        ("release", word("/proc/sys/kernel/osrelease")),
    ];
    rows.push(("cpus", std::thread::available_parallelism().ok().map(|n| n.to_string())));
    rows.into_iter().map(|(key, value)| format!("{key}={}\n", value.unwrap_or_default())).collect()
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut input = BufReader::with_capacity(BLOCK, stream);
    loop {
        let mut request = String::new();
        if input.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut length = 0u64;
        loop {
            let mut header = String::new();
            input.read_line(&mut header)?;
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let (what, number) = path.split_once('/').unwrap_or((&path, ""));
        let number = || number.parse::<u64>().unwrap_or(0);
        match what {
            "hello" => reply(&mut out, "200 OK", "hello from the one image\n")?,
            "bulk" => {
                let count = number();
                out.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n").as_bytes())?;
                Pattern::new(DOWN).each(count, |piece| out.write_all(piece))?;
            }
            "sum" => {
                let (bytes, crc) = sum(&mut input, Some(length))?;
                reply(&mut out, "200 OK", &format!("{bytes} {crc:08x}"))?;
            }
            "disk" => answer(&mut out, disk())?,
            "write" => answer(&mut out, write())?,
            "info" => reply(&mut out, "200 OK", &info())?,
            "exit" => {
                reply(&mut out, "200 OK", "bye\n")?;
                // the answer shall be on the wire before the machine is gone
                std::thread::sleep(std::time::Duration::from_millis(300));
                std::process::exit(number() as i32);
            }
            _ => reply(&mut out, "404 Not Found", "no such page\n")?,
        }
    }
}

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|p| p.parse().ok()).unwrap_or(80);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("matrix: serving at port {port}");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || serve(stream));
    }
    Ok(())
}
