// Who and where am I: ids, uname, prctl, limits, CPUs, random numbers, the auxiliary vector, the vDSO.
#include "conf.h"
#include <elf.h>
#include <grp.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

CHECK(uname_says_linux)
{
    struct utsname u;
    OK(uname(&u));
    T(!strcmp(u.sysname, "Linux"));
    T(!strcmp(u.machine, "x86_64"));
    int major = 0, minor = 0;
    EQ(sscanf(u.release, "%d.%d", &major, &minor), 2);
    T(major >= 5);
    T(u.nodename[0] != 0);
    char host[65];
    OK(gethostname(host, sizeof host));
    T(!strcmp(host, u.nodename));
}

CHECK(user_and_group_ids)
{
    uid_t r, e, s;
    OK(getresuid(&r, &e, &s));
    EQ(r, getuid());
    EQ(e, geteuid());
    gid_t g[64];
    T(getgroups(64, g) >= 0);
    EXITS(CHILD({
        OK(setgid(33));
        OK(setuid(33));
        EQ(getuid(), 33);
        EQ(geteuid(), 33);
        EQ(getegid(), 33);
        ERR(setuid(0), EPERM);
    }), 0);
    EQ(getuid(), r);
    EXITS(CHILD({
        OK(setresuid(-1, 5, -1));
        EQ(geteuid(), 5);
        OK(setresuid(-1, 0, -1)); // the saved id allows it
        EQ(geteuid(), 0);
        OK(setgroups(2, (gid_t[]){7, 8}));
        EQ(getgroups(64, g), 2);
        EQ(g[1], 8);
    }), 0);
}

CHECK(pid_and_parent)
{
    T(getpid() > 0);
    EQ(getpid(), syscall(SYS_getpid));
    T(getppid() >= 0);
}

CHECK(thread_name)
{
    char name[16];
    OK(prctl(PR_SET_NAME, "a-name-longer-than-fits"));
    OK(prctl(PR_GET_NAME, name));
    T(!strcmp(name, "a-name-longer-t"));
    ERR(prctl(9999), EINVAL);
}

CHECK(prctl_flags)
{
    OK(prctl(PR_SET_DUMPABLE, 0));
    EQ(prctl(PR_GET_DUMPABLE), 0);
    OK(prctl(PR_SET_DUMPABLE, 1));
    EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
    OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    int sig = -1;
    OK(prctl(PR_SET_PDEATHSIG, SIGTERM));
    OK(prctl(PR_GET_PDEATHSIG, &sig));
    EQ(sig, SIGTERM);
}

CHECK(limits)
{
    struct rlimit rl, was;
    OK(getrlimit(RLIMIT_NOFILE, &rl));
    T(rl.rlim_cur >= 256 && rl.rlim_cur <= rl.rlim_max);
    OK(getrlimit(RLIMIT_STACK, &was));
    T(was.rlim_cur >= 1 << 20);
    rl = (struct rlimit){was.rlim_cur / 2, was.rlim_max};
    OK(setrlimit(RLIMIT_STACK, &rl));
    OK(syscall(SYS_prlimit64, 0, RLIMIT_STACK, 0, &rl));
    EQ(rl.rlim_cur, was.rlim_cur / 2);
    rl = (struct rlimit){2, 1};
    ERR(setrlimit(RLIMIT_NOFILE, &rl), EINVAL);
    ERR(getrlimit(99, &rl), EINVAL);
}

CHECK(file_size_limit)
{
    struct rlimit rl = {100, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    OK(setrlimit(RLIMIT_FSIZE, &rl));
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    char b[150] = {0};
    EQ(write(fd, b, 150), 100);
    ERR(write(fd, b, 1), EFBIG);
}

CHECK(sysinfo_is_sane)
{
    struct sysinfo si;
    OK(sysinfo(&si));
    T(si.totalram > 0 && si.freeram <= si.totalram);
    T(si.mem_unit >= 1);
    T(si.procs >= 1);
    EQ(sysconf(_SC_PAGESIZE), 4096);
    T(sysconf(_SC_PHYS_PAGES) > 0);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    T(n >= 1 && n <= 1024);
}

CHECK(random_numbers)
{
    unsigned char a[256], b[256];
    EQ(syscall(SYS_getrandom, a, sizeof a, 0), 256);
    EQ(syscall(SYS_getrandom, b, sizeof b, 1), 256);
    T(memcmp(a, b, sizeof a) != 0);
    int ones = 0;
    for (int i = 0; i < 256; i++) ones += __builtin_popcount(a[i]);
    T(ones > 800 && ones < 1250);
    EQ(syscall(SYS_getrandom, a, 100, 2), 100);
}

CHECK(affinity_and_cpu)
{
    cpu_set_t s;
    CPU_ZERO(&s);
    OK(sched_getaffinity(0, sizeof s, &s));
    T(CPU_COUNT(&s) >= 1);
    EQ(CPU_COUNT(&s), sysconf(_SC_NPROCESSORS_ONLN));
    unsigned cpu = 9999, node = 9999;
    OK(syscall(SYS_getcpu, &cpu, &node, 0));
    T(CPU_ISSET(cpu, &s));
    T(sched_getcpu() >= 0);
    T(syscall(SYS_sched_getaffinity, 0, 128, &s) >= 8);
    ERR(syscall(SYS_sched_getaffinity, 0, 0, &s), EINVAL);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &s)) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(i, &one);
        OK(sched_setaffinity(0, sizeof one, &one));
        OK(syscall(SYS_getcpu, &cpu, 0, 0));
        EQ(cpu, i); // moved there at once
    }
    CPU_ZERO(&s);
    ERR(sched_setaffinity(0, sizeof s, &s), EINVAL);
}

CHECK(scheduling_calls)
{
    OK(sched_yield());
    EQ(syscall(SYS_sched_getscheduler, 0), SCHED_OTHER);
    EQ(syscall(SYS_sched_get_priority_max, SCHED_FIFO), 99);
    EQ(syscall(SYS_sched_get_priority_min, SCHED_OTHER), 0);
    errno = 0;
    int before = getpriority(PRIO_PROCESS, 0);
    EQ(errno, 0);
    OK(setpriority(PRIO_PROCESS, 0, before + 3));
    EQ(getpriority(PRIO_PROCESS, 0), before + 3);
    struct sched_param sp;
    OK(syscall(SYS_sched_getparam, 0, &sp));
}

CHECK(auxiliary_vector)
{
    EQ(getauxval(AT_PAGESZ), 4096);
    EQ(getauxval(AT_UID), getuid());
    EQ(getauxval(AT_SECURE), 0);
    EQ(getauxval(AT_CLKTCK), 100);
    T(getauxval(AT_PHDR) != 0);
    T(getauxval(AT_PHNUM) > 0);
    EQ(getauxval(AT_PHENT), sizeof(Elf64_Phdr));
    T(getauxval(AT_ENTRY) != 0);
    T(getauxval(AT_HWCAP) != 0);
    unsigned char *r = (void *)getauxval(AT_RANDOM);
    T(r != 0);
    int sum = 0;
    for (int i = 0; i < 16; i++) sum |= r[i];
    T(sum != 0);
    T(!strcmp((char *)getauxval(AT_PLATFORM), "x86_64"));
    T(strstr((char *)getauxval(AT_EXECFN), "identity") != 0);
    const Elf64_Phdr *ph = (void *)getauxval(AT_PHDR);
    int loads = 0;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++) loads += ph[i].p_type == PT_LOAD;
    T(loads > 0);
}

CHECK(vdso_is_there)
{
    const Elf64_Ehdr *e = (void *)getauxval(AT_SYSINFO_EHDR);
    T(e != 0);
    T(!memcmp(e->e_ident, "\177ELF", 4));
    const Elf64_Phdr *ph = (void *)((char *)e + e->e_phoff);
    const Elf64_Dyn *dyn = 0;
    long bias = 0;
    for (int i = 0; i < e->e_phnum; i++) {
        if (ph[i].p_type == PT_LOAD && !bias) bias = (long)e + ph[i].p_offset - ph[i].p_vaddr;
        if (ph[i].p_type == PT_DYNAMIC) dyn = (void *)((char *)e + ph[i].p_offset);
    }
    T(dyn != 0);
    const char *str = 0;
    const Elf64_Sym *sym = 0;
    const uint32_t *hash = 0;
    for (; dyn->d_tag; dyn++) {
        void *p = (void *)(bias + dyn->d_un.d_ptr);
        if (dyn->d_tag == DT_STRTAB) str = p;
        if (dyn->d_tag == DT_SYMTAB) sym = p;
        if (dyn->d_tag == DT_HASH) hash = p;
    }
    T(str && sym);
    if (!hash) return; // some Linux builds carry only the GNU hash
    int seen = 0;
    for (uint32_t i = 0; i < hash[1]; i++) {
        const char *n = str + sym[i].st_name;
        static const char *const want[] = {"__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"};
        for (int k = 0; k < 4; k++)
            if (!strcmp(n, want[k])) seen |= 1 << k;
    }
    EQ(seen, 15);
}

CHECK(stack_at_start_is_aligned)
{
    char c __attribute__((aligned(16)));
    EQ((uintptr_t)&c & 15, 0);
    double d = 1.5; // and SSE works
    __asm__ volatile("addsd %0,%0" : "+x"(d));
    T(d == 3.0);
}

CHECK(personality_and_capabilities)
{
    EQ(syscall(SYS_personality, 0xffffffff), 0);
    EXITS(CHILD({
        unsigned caps[6], head[2] = {0x20080522, 0};
        OK(syscall(SYS_capget, head, caps));
    }), 0);
}

CHECK(arch_prctl_bases)
{
    unsigned long fs = 0, gs = 1;
    OK(syscall(SYS_arch_prctl, 0x1003, &fs)); // ARCH_GET_FS
    unsigned long self;
    __asm__("mov %%fs:0,%0" : "=r"(self));
    EQ(fs, self); // the thread's control block starts with its own address
    OK(syscall(SYS_arch_prctl, 0x1004, &gs)); // ARCH_GET_GS
    EQ(gs, 0);
    ERR(syscall(SYS_arch_prctl, 0x1002, 0x8000000000000000), EPERM);
    ERR(syscall(SYS_arch_prctl, 0x9999, 0), EINVAL);
}

CHECK(membarrier)
{
    long commands = OK(syscall(SYS_membarrier, 0, 0, 0));
    if (commands & 16) OK(syscall(SYS_membarrier, 16, 0, 0)); // register, then private and expedited
    if (commands & 8) OK(syscall(SYS_membarrier, 8, 0, 0));
    ERR(syscall(SYS_membarrier, 1 << 30, 0, 0), EINVAL);
}
