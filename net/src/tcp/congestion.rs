//! Round-trip estimation (RFC 6298), CUBIC congestion control (RFC 9438) and the SACK scoreboard (RFC 6675).

use alloc::vec::Vec;

use super::segment::before;

const MS: u64 = 1_000_000;
/// Lower bound of the retransmission timeout: as Linux, below RFC 6298's second.
const MIN_RTO: u64 = 200 * MS;
/// Upper bound of the retransmission timeout.
pub(crate) const MAX_RTO: u64 = 120_000 * MS;
/// Before the first measurement.
const INITIAL_RTO: u64 = 1000 * MS;

/// Round-trip time, all in ns.
pub(crate) struct Rtt {
    pub smoothed: u64,
    pub variation: u64,
    rto: u64,
    pub backoff: u8,
}

impl Rtt {
    pub const fn new() -> Self {
        Self { smoothed: 0, variation: 0, rto: INITIAL_RTO, backoff: 0 }
    }

    pub fn sample(&mut self, rtt: u64) {
        if self.smoothed == 0 {
            self.smoothed = rtt.max(1);
            self.variation = rtt / 2;
        } else {
            let off = self.smoothed.abs_diff(rtt);
            self.variation = self.variation - self.variation / 4 + off / 4;
            self.smoothed = (self.smoothed - self.smoothed / 8 + rtt / 8).max(1);
        }
        self.rto = (self.smoothed + (4 * self.variation).max(MIN_RTO)).min(MAX_RTO);
    }

    /// The timeout now, backed off.
    #[inline]
    pub fn timeout(&self) -> u64 {
        (self.rto << self.backoff.min(16)).min(MAX_RTO)
    }
}

/// CUBIC with the standard's constants C = 0.4, beta = 0.7, in integers.
pub(crate) struct Congestion {
    /// Congestion window in bytes.
    pub window: u32,
    /// Slow start threshold in bytes.
    pub threshold: u32,
    max_window: u32,
    epoch: u64,
    /// Time to reach `max_window` again, ms.
    k: u64,
    /// What Reno would have: the lower bound in small networks.
    reno: u32,
    acked: u32,
}

/// No window grows beyond this.
const MAX_WINDOW: u32 = 64 << 20;

impl Congestion {
    pub const fn new(mss: u32) -> Self {
        Self { window: 10 * mss, threshold: u32::MAX, max_window: 0, epoch: 0, k: 0, reno: 0, acked: 0 }
    }

    /// `acked` new bytes were acknowledged, and the window was what limited sending.
    pub fn on_ack(&mut self, acked: u32, mss: u32, now: u64, rtt: u64) {
        if self.window < self.threshold {
            self.window = self.window.saturating_add(acked).min(MAX_WINDOW);
            return;
        }
        if self.epoch == 0 {
            self.epoch = now;
            self.reno = self.window;
            self.max_window = self.max_window.max(self.window);
            let segments = u64::from(self.max_window - self.window) / u64::from(mss);
            // K = cbrt((Wmax - cwnd) / C), in ms: cbrt(segments / 0.4 * 1e9).
            self.k = cube_root(segments * 5 / 2 * 1_000_000_000);
        }
        // Reno's estimate: one segment per window (alpha near 0.53 while below Wmax).
        self.acked = self.acked.saturating_add(acked);
        if self.acked >= self.reno {
            self.acked -= self.reno;
            self.reno = self.reno.saturating_add(if self.reno < self.max_window { mss / 2 } else { mss });
        }
        let t = (now.saturating_sub(self.epoch) + rtt) / MS;
        let d = t.abs_diff(self.k).min(1 << 20);
        // C * (t - K)^3 segments: 0.4 * ms^3 / 1e9.
        let offset = (d * d * d / 2_500_000_000).saturating_mul(u64::from(mss));
        let target = if t >= self.k {
            u64::from(self.max_window).saturating_add(offset)
        } else {
            u64::from(self.max_window).saturating_sub(offset)
        };
        let target = target.clamp(u64::from(self.window), u64::from(self.window) * 3 / 2);
        let grow = (target - u64::from(self.window)) * u64::from(acked) / u64::from(self.window.max(1));
        let cubic = u64::from(self.window) + grow;
        self.window = (cubic.max(u64::from(self.reno)) as u32).min(MAX_WINDOW);
    }

    /// A loss was seen: multiplicative decrease. `flight` is what was outstanding.
    pub fn on_loss(&mut self, flight: u32, mss: u32) {
        let base = self.window.min(flight.max(2 * mss));
        // Fast convergence: release bandwidth to newcomers.
        self.max_window =
            if self.window < self.max_window { (u64::from(self.window) * 17 / 20) as u32 } else { self.window };
        self.threshold = ((u64::from(base) * 7 / 10) as u32).max(2 * mss);
        self.window = self.threshold;
        self.epoch = 0;
        self.acked = 0;
    }

    /// A retransmission timeout.
    pub fn on_timeout(&mut self, flight: u32, mss: u32) {
        self.on_loss(flight, mss);
        self.window = mss;
    }

    /// After an idle time longer than the timeout the network is unknown again (RFC 5681, 4.1).
    pub fn on_idle(&mut self, mss: u32) {
        self.window = self.window.min(10 * mss);
        self.epoch = 0;
    }
}

fn cube_root(n: u64) -> u64 {
    let (mut low, mut high) = (0u64, 1 << 21);
    while low < high {
        let mid = (low + high).div_ceil(2);
        if mid * mid * mid <= n { low = mid } else { high = mid - 1 }
    }
    low
}

/// Most ranges that are remembered; a peer reports at most four per segment.
const MAX_RANGES: usize = 64;

/// What the peer has beyond the acknowledged bytes: disjoint ranges in order.
#[derive(Default)]
pub(crate) struct Scoreboard {
    ranges: Vec<(u32, u32)>,
}

impl Scoreboard {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds a reported block; true if it says something new. `una` and `max` bound what is credible.
    pub fn add(&mut self, mut start: u32, mut end: u32, una: u32, max: u32) -> bool {
        if !before(start, end) || before(start, una) || before(max, end) {
            return false;
        }
        let first = self.ranges.partition_point(|r| before(r.1, start));
        let mut last = first;
        while last < self.ranges.len() && !before(end, self.ranges[last].0) {
            last += 1;
        }
        if last - first == 1 && !before(start, self.ranges[first].0) && !before(self.ranges[first].1, end) {
            return false;
        }
        if first == last && self.ranges.len() >= MAX_RANGES {
            return false;
        }
        if first < last {
            if before(self.ranges[first].0, start) {
                start = self.ranges[first].0;
            }
            if before(end, self.ranges[last - 1].1) {
                end = self.ranges[last - 1].1;
            }
        }
        self.ranges.splice(first..last, [(start, end)]);
        true
    }

    /// Everything before `una` is acknowledged.
    pub fn advance(&mut self, una: u32) {
        if self.ranges.is_empty() {
            return;
        }
        self.ranges.retain_mut(|r| {
            if before(r.0, una) {
                r.0 = una;
            }
            before(r.0, r.1)
        });
        if self.ranges.is_empty() {
            self.ranges = Vec::new();
        }
    }

    /// Bytes that the peer has.
    pub fn bytes(&self) -> u32 {
        self.ranges.iter().map(|r| r.1.wrapping_sub(r.0)).sum()
    }

    /// End of the highest range.
    pub fn highest(&self) -> Option<u32> {
        self.ranges.last().map(|r| r.1)
    }

    /// The first hole at or after `from`, below the highest range.
    pub fn hole(&self, from: u32) -> Option<(u32, u32)> {
        let mut at = from;
        for r in &self.ranges {
            if before(at, r.0) {
                return Some((at, r.0));
            }
            if before(at, r.1) {
                at = r.1;
            }
        }
        None
    }

    /// Bytes of holes in `from..to`.
    pub fn missing(&self, from: u32, to: u32) -> u32 {
        if !before(from, to) {
            return 0;
        }
        let mut missing = to.wrapping_sub(from);
        for r in &self.ranges {
            let start = if before(r.0, from) { from } else { r.0 };
            let end = if before(to, r.1) { to } else { r.1 };
            if before(start, end) {
                missing -= end.wrapping_sub(start);
            }
        }
        missing
    }

    pub fn clear(&mut self) {
        self.ranges = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scoreboard_merges_and_finds_holes() {
        let mut s = Scoreboard::default();
        let b = u32::MAX - 50;
        let at = |n: u32| b.wrapping_add(n);
        assert!(s.add(at(20), at(30), at(0), at(200)));
        assert!(s.add(at(50), at(60), at(0), at(200)));
        assert!(!s.add(at(52), at(55), at(0), at(200)));
        assert!(!s.add(at(190), at(201), at(0), at(200)), "beyond what was sent");
        assert_eq!(s.hole(at(0)), Some((at(0), at(20))));
        assert_eq!(s.hole(at(25)), Some((at(30), at(50))));
        assert_eq!(s.missing(at(0), at(60)), 40);
        assert!(s.add(at(30), at(50), at(0), at(200)));
        assert_eq!((s.ranges.len(), s.bytes()), (1, 40));
        s.advance(at(40));
        assert_eq!((s.bytes(), s.highest()), (20, Some(at(60))));
        assert_eq!(s.hole(at(40)), None);
        s.advance(at(60));
        assert!(s.is_empty());
    }

    #[test]
    fn cubic_recovers_towards_the_old_window() {
        let mss = 1000;
        let mut c = Congestion::new(mss);
        c.on_ack(90_000, mss, 0, 0);
        assert_eq!(c.window, 100_000);
        c.on_loss(100_000, mss);
        assert_eq!(c.window, 70_000);
        let mut now = MS;
        for _ in 0..20 {
            c.on_ack(c.window, mss, now, 200 * MS);
            now += 200 * MS;
        }
        assert!((95_000..105_000).contains(&c.window), "{}", c.window);
        c.on_timeout(50_000, mss);
        assert_eq!((c.window, c.threshold), (mss, 35_000));
        assert_eq!(cube_root(27_000), 30);
        assert_eq!(cube_root(26_999), 29);
    }
}
