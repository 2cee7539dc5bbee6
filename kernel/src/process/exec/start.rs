//! The first process.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use base::{Errno, Result};
use fs::Path;
use fs::vfs::Resolve;
use hal_core::UserContext;

use super::Strings;
use crate::files::{self, FdTable, FsContext};
use crate::mm::{self, AddressSpace};
use crate::process::credentials::Credentials;
use crate::process::limits::Limits;
use crate::process::owner::OwnerCell;
use crate::process::process::{Inherit, flag};
use crate::process::signal::SIGCHLD;
use crate::process::{ExitStatus, Process, ThreadExt, exit, ids, run, tree};
use crate::sched::{self, Thread};

/// The program that the run is for.
pub struct Init {
    /// Path of the file.
    pub path: Vec<u8>,
    /// argv and envp.
    pub strings: Strings,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Root of the tree.
    pub root: Path,
    /// Standard input, output and error are in it.
    pub files: Arc<FdTable>,
}

/// Limits scale with memory: a thread needs about so many pages in all.
const PAGES_PER_THREAD: u64 = 16;

/// Makes the first process and starts it. A program that cannot be executed ends the run with 126 or 127.
pub fn spawn_init(init: Init) -> Result<()> {
    let context = FsContext::new(init.root.clone());
    let credentials = fs::Credentials::root();
    let cwd =
        fs::Walk { root: &init.root, start: &init.root, cred: &credentials }.lookup(&init.cwd, Resolve::FOLLOW)?;
    context.set_cwd(cwd);
    let pid = ids::allocate()?;
    if pid != 1 {
        return Err(Errno::EEXIST);
    }
    let space = AddressSpace::new()?;
    let threads = (mm::frame::stats().total as u64 / PAGES_PER_THREAD).clamp(64, u64::from(ids::PID_MAX));
    let process = Process::new(
        pid,
        space.clone(),
        Weak::new(),
        Inherit {
            actions: Arc::default(),
            credentials: Arc::new(Credentials::root()),
            limits: Limits::initial(threads),
            program: Arc::default(),
            group: pid,
            session: pid,
            exit_signal: SIGCHLD,
            flags: flag::DUMPABLE,
            personality: 0,
            oom_score_adj: 0,
        },
    );
    let ext = ThreadExt {
        files: OwnerCell::new(Some(init.files)),
        fs: OwnerCell::new(Some(context)),
        ..ThreadExt::default()
    };
    FIRST.lock().replace((init.path.clone(), init.strings));
    let thread = Thread::new_user(pid, process.clone(), space, &UserContext::default(), 0, ext, first_run)?;
    process.add_thread(&thread);
    ids::publish_thread(pid, &thread);
    tree::adopt(&process);
    sched::start(&thread);
    Ok(())
}

/// What the first thread execs: path and strings.
static FIRST: base::SpinLock<Option<(Vec<u8>, Strings)>> = base::SpinLock::new(None);

/// On the first process's own stack: becomes the program.
fn first_run() -> ! {
    let status = match exec_first() {
        Ok(()) => {
            crate::chart::program_starts();
            run::start()
        }
        Err(Errno::ENOENT) => 127,
        Err(_) => 126,
    };
    exit::end_process(ExitStatus::exited(status))
}

fn exec_first() -> Result<()> {
    let (path, strings) = FIRST.lock().take().ok_or(Errno::EINVAL)?;
    let done = files::lookup(&path, Resolve::FOLLOW).and_then(|found| super::execve(&found, path.clone(), strings));
    done.inspect_err(|error| {
        let name = alloc::string::String::from_utf8_lossy(&path);
        match *error {
            Errno::ENOENT => log::error!("{name}: not in the root image, or its interpreter or loader is not"),
            Errno::ENOEXEC => log::error!("{name}: not an x86-64 ELF program or a script"),
            Errno::ELIBBAD => log::error!("{name}: the loader that it names is broken"),
            Errno::EACCES => log::error!("{name}: not a file with execute permission"),
            error => log::error!("{name}: cannot be executed ({error})"),
        }
    })
}
