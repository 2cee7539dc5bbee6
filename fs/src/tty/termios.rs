//! Terminal settings, with the layout and values of `struct termios` (asm-generic/termbits.h).

bitflags::bitflags! {
    /// `c_iflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InputFlags: u32 {
        /// Cut to seven bits.
        const ISTRIP = 0o40;
        /// Newline becomes carriage return.
        const INLCR = 0o100;
        /// Carriage returns are dropped.
        const IGNCR = 0o200;
        /// Carriage return becomes newline.
        const ICRNL = 0o400;
        /// Upper case becomes lower case.
        const IUCLC = 0o1000;
        /// `VSTOP` and `VSTART` stop and start output.
        const IXON = 0o2000;
        /// Any byte starts output.
        const IXANY = 0o4000;
        /// Bell when the input buffer is full.
        const IMAXBEL = 0o20000;
        /// Input is UTF-8.
        const IUTF8 = 0o40000;
        /// The other bits are kept as they are set.
        const _ = !0;
    }

    /// `c_oflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OutputFlags: u32 {
        /// The other flags have an effect.
        const OPOST = 0o1;
        /// Lower case becomes upper case.
        const OLCUC = 0o2;
        /// Newline becomes carriage return and newline.
        const ONLCR = 0o4;
        /// Carriage return becomes newline.
        const OCRNL = 0o10;
        /// No carriage return in column 0.
        const ONOCR = 0o20;
        /// Newline returns to column 0.
        const ONLRET = 0o40;
        /// Tabs become spaces.
        const XTABS = 0o14000;
        /// The other bits are kept as they are set.
        const _ = !0;
    }

    /// `c_lflag`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LocalFlags: u32 {
        /// Signals from `VINTR`, `VQUIT`, `VSUSP`.
        const ISIG = 0o1;
        /// Lines with editing.
        const ICANON = 0o2;
        /// Echo input.
        const ECHO = 0o10;
        /// Erase rubs out on the screen.
        const ECHOE = 0o20;
        /// Newline after `VKILL`.
        const ECHOK = 0o40;
        /// Echo newline even without `ECHO`.
        const ECHONL = 0o100;
        /// Signals do not flush.
        const NOFLSH = 0o200;
        /// Background writers get `SIGTTOU`.
        const TOSTOP = 0o400;
        /// Echo control characters as `^X`.
        const ECHOCTL = 0o1000;
        /// `VKILL` erases byte by byte.
        const ECHOKE = 0o4000;
        /// `VWERASE`, `VLNEXT`, `VREPRINT`.
        const IEXTEN = 0o100000;
        /// The other bits are kept as they are set.
        const _ = !0;
    }
}

/// Index in `c_cc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// `VINTR`.
    Interrupt = 0,
    /// `VQUIT`.
    Quit = 1,
    /// `VERASE`.
    Erase = 2,
    /// `VKILL`.
    Kill = 3,
    /// `VEOF`.
    EndOfFile = 4,
    /// `VTIME`.
    Time = 5,
    /// `VMIN`.
    Min = 6,
    /// `VSTART`.
    Start = 8,
    /// `VSTOP`.
    Stop = 9,
    /// `VSUSP`.
    Suspend = 10,
    /// `VEOL`.
    EndOfLine = 11,
    /// `VREPRINT`.
    Reprint = 12,
    /// `VWERASE`.
    WordErase = 14,
    /// `VLNEXT`.
    LiteralNext = 15,
    /// `VEOL2`.
    EndOfLine2 = 16,
}

/// Terminal settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termios {
    /// Input modes.
    pub input: InputFlags,
    /// Output modes.
    pub output: OutputFlags,
    /// Control modes (speed, character size): kept, without effect.
    pub hardware: u32,
    /// Local modes.
    pub local: LocalFlags,
    /// Line discipline number; only 0 is there.
    pub line: u8,
    /// Control characters.
    pub control: [u8; 19],
}

impl Default for Termios {
    /// As a new terminal of Linux: cooked, echoing, 38400 8N1.
    fn default() -> Self {
        let mut control = [0; 19];
        control[..17].copy_from_slice(&[3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0]);
        Self {
            input: InputFlags::ICRNL | InputFlags::IXON,
            output: OutputFlags::OPOST | OutputFlags::ONLCR,
            hardware: 0o277,
            local: LocalFlags::ISIG
                | LocalFlags::ICANON
                | LocalFlags::ECHO
                | LocalFlags::ECHOE
                | LocalFlags::ECHOK
                | LocalFlags::ECHOCTL
                | LocalFlags::ECHOKE
                | LocalFlags::IEXTEN,
            line: 0,
            control,
        }
    }
}

impl Termios {
    /// Bytes of the kernel's `struct termios` (`TCGETS`).
    pub const LEN: usize = 36;

    /// From `struct termios`.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut control = [0; 19];
        control.copy_from_slice(&bytes[17..36]);
        Self {
            input: InputFlags::from_bits_retain(word(0)),
            output: OutputFlags::from_bits_retain(word(4)),
            hardware: word(8),
            local: LocalFlags::from_bits_retain(word(12)),
            line: bytes[16],
            control,
        }
    }

    /// As `struct termios`.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let words = [self.input.bits(), self.output.bits(), self.hardware, self.local.bits()];
        for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[16] = self.line;
        bytes[17..].copy_from_slice(&self.control);
        bytes
    }
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Winsize {
    /// Rows of characters.
    pub rows: u16,
    /// Columns of characters.
    pub columns: u16,
    /// Width in pixels.
    pub x_pixels: u16,
    /// Height in pixels.
    pub y_pixels: u16,
}

impl Winsize {
    /// From `struct winsize`.
    pub fn from_bytes(bytes: &[u8; 8]) -> Self {
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self { rows: half(0), columns: half(2), x_pixels: half(4), y_pixels: half(6) }
    }

    /// As `struct winsize`.
    pub fn to_bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        for (slot, half) in bytes.chunks_exact_mut(2).zip([self.rows, self.columns, self.x_pixels, self.y_pixels]) {
            slot.copy_from_slice(&half.to_ne_bytes());
        }
        bytes
    }
}
