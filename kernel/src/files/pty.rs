//! Pseudo-terminals: a terminal whose device is another open file, the master.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base::io::{In, Out};
use base::{Errno, Events, Result, SpinLock, Subject};
use fs::types::{OpenFlags, Stat, Time, makedev};
use fs::{File, IoFlags, Status};

use super::tty::{Device, Tty, TtyFile, get, put, terminal_stat};

const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGPTPEER: u32 = 0x5441;
const FIONREAD: u32 = 0x541b;

/// Major number of the slaves (Documentation/admin-guide/devices.txt).
const SLAVE_MAJOR: u32 = 136;
/// Output that waits for the master, bytes.
const CAPACITY: usize = 64 * 1024;
/// Most pairs at a time.
const MAX_PAIRS: u32 = 4096;

/// Between slave and master.
struct Pair {
    number: u32,
    /// What the slave's programs have written.
    output: SpinLock<VecDeque<u8>>,
    /// Who waits at the master.
    master: Subject,
    locked: AtomicBool,
    slaves: AtomicUsize,
    /// A slave was open once: the master is hung up when the last one closes.
    had_slave: AtomicBool,
}

struct ToMaster(Arc<Pair>);

impl Device for ToMaster {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut output = self.0.output.lock();
        let len = bytes.len().min(CAPACITY - output.len());
        output.extend(&bytes[..len]);
        drop(output);
        self.0.master.notify(Events::IN | Events::RDNORM);
        len
    }

    fn room(&self) -> usize {
        CAPACITY - self.0.output.lock().len()
    }
}

/// The open pairs by number, each with its terminal while that is open.
type Pairs = BTreeMap<u32, (Arc<Pair>, Weak<Tty>)>;

static PAIRS: SpinLock<Pairs> = SpinLock::new(BTreeMap::new());

/// The open master.
pub struct Master {
    pair: Arc<Pair>,
    tty: Arc<Tty>,
    status: Status,
    opened: Time,
}

/// Opens `/dev/ptmx`: a new pair. `ENOSPC` beyond 4096 pairs.
pub fn open_master(flags: OpenFlags) -> Result<Arc<Master>> {
    let mut pairs = PAIRS.lock();
    let number = (0..MAX_PAIRS).find(|n| !pairs.contains_key(n)).ok_or(Errno::ENOSPC)?;
    let pair = Arc::new(Pair {
        number,
        output: SpinLock::new(VecDeque::new()),
        master: Subject::new(),
        locked: AtomicBool::new(true),
        slaves: AtomicUsize::new(0),
        had_slave: AtomicBool::new(false),
    });
    let tty = Tty::new((SLAVE_MAJOR + number / 256, number % 256), Box::new(ToMaster(pair.clone())));
    pairs.insert(number, (pair.clone(), Arc::downgrade(&tty)));
    Ok(Arc::new(Master { pair, tty, status: Status::new(flags), opened: Time::now() }))
}

/// Numbers of the slaves that exist: the names in `/dev/pts`.
pub fn slaves() -> Vec<u32> {
    PAIRS.lock().keys().copied().collect()
}

/// Device number of slave `number`, if it exists.
pub fn slave_device(number: u32) -> Option<u64> {
    PAIRS.lock().contains_key(&number).then(|| makedev(SLAVE_MAJOR + number / 256, number % 256))
}

/// Counts an open slave; the last to go hangs the master up.
struct SlaveGuard(Arc<Pair>);

impl Drop for SlaveGuard {
    fn drop(&mut self) {
        if self.0.slaves.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.master.notify(Events::all());
        }
    }
}

fn open_pair_slave(pair: &Arc<Pair>, tty: &Arc<Tty>, flags: OpenFlags) -> Arc<TtyFile> {
    pair.slaves.fetch_add(1, Ordering::SeqCst);
    pair.had_slave.store(true, Ordering::SeqCst);
    TtyFile::new(tty, flags, Some(Box::new(SlaveGuard(pair.clone()))))
}

/// Opens `/dev/pts/NUMBER`. `EIO` while it is locked, `ENOENT` if it does not exist.
pub fn open_slave(number: u32, flags: OpenFlags) -> Result<Arc<TtyFile>> {
    let (pair, tty) = {
        let pairs = PAIRS.lock();
        let (pair, tty) = pairs.get(&number).ok_or(Errno::ENOENT)?;
        (pair.clone(), tty.upgrade().ok_or(Errno::ENOENT)?)
    };
    if pair.locked.load(Ordering::SeqCst) {
        return Err(Errno::EIO);
    }
    Ok(open_pair_slave(&pair, &tty, flags))
}

impl Master {
    /// Opens the slave without its name (`TIOCGPTPEER`).
    pub fn open_peer(&self, flags: OpenFlags) -> Arc<TtyFile> {
        open_pair_slave(&self.pair, &self.tty, flags)
    }

    /// True for the request that the caller must turn into a new descriptor of [`Master::open_peer`].
    pub fn is_open_peer(command: u32) -> bool {
        command == TIOCGPTPEER
    }

    fn slave_is_gone(&self) -> bool {
        self.pair.had_slave.load(Ordering::SeqCst) && self.pair.slaves.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        PAIRS.lock().remove(&self.pair.number);
        self.tty.hang_up();
    }
}

impl File for Master {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        let data: Vec<u8> = {
            let mut output = self.pair.output.lock();
            let len = output.len().min(out.remaining());
            output.drain(..len).collect()
        };
        if data.is_empty() {
            return match out.remaining() {
                0 => Ok(0),
                _ if self.slave_is_gone() => Err(Errno::EIO),
                _ => Err(Errno::EAGAIN),
            };
        }
        self.tty.room_came();
        out.write(&data)
    }

    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        let mut total = 0;
        let mut chunk = [0; 512];
        while input.remaining() > 0 {
            let len = chunk.len().min(input.remaining());
            match input.read(&mut chunk[..len]) {
                Ok(moved) => {
                    self.tty.input(&chunk[..moved]);
                    total += moved;
                }
                Err(error) => return if total > 0 { Ok(total) } else { Err(error) },
            }
        }
        Ok(total)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self) -> Events {
        let mut events = Events::OUT | Events::WRNORM;
        if !self.pair.output.lock().is_empty() {
            events |= Events::IN | Events::RDNORM;
        }
        if self.slave_is_gone() {
            events |= Events::HUP;
        }
        events
    }

    fn subject(&self) -> &Subject {
        &self.pair.master
    }

    fn ioctl(&self, command: u32, arg: usize) -> Result<u64> {
        match command {
            TIOCGPTN => put(arg, &self.pair.number.to_ne_bytes()),
            TIOCSPTLCK => {
                let mut bytes = [0; 4];
                get(arg, &mut bytes)?;
                self.pair.locked.store(i32::from_ne_bytes(bytes) != 0, Ordering::SeqCst);
                Ok(0)
            }
            TIOCGPTLCK => put(arg, &i32::from(self.pair.locked.load(Ordering::SeqCst)).to_ne_bytes()),
            FIONREAD => put(arg, &(self.pair.output.lock().len() as i32).to_ne_bytes()),
            _ => self.tty.ioctl(command, arg),
        }
    }

    fn stat(&self) -> Result<Stat> {
        Ok(terminal_stat(makedev(5, 2), self.opened))
    }

    fn describe(&self) -> String {
        String::from("/dev/ptmx")
    }

    fn fdinfo(&self) -> String {
        format!("tty-index: {}\n", self.pair.number)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
