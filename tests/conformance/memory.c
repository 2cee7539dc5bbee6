// Memory: mmap, munmap, mremap, mprotect, madvise, brk, file mappings, copy-on-write, faults.
#include "conf.h"

#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)

static int file_of(size_t len, char fill)
{
    int fd = OK(open("map", O_RDWR | O_CREAT | O_TRUNC, 0600));
    char page[PAGE];
    memset(page, fill, sizeof page);
    for (size_t at = 0; at < len; at += PAGE) {
        size_t n = len - at < PAGE ? len - at : PAGE;
        EQ(write(fd, page, n), n);
    }
    return fd;
}

static sigjmp_buf fault_out;
static volatile siginfo_t fault_info;
static volatile int fault_sig;
static void on_fault(int sig, siginfo_t *si, void *uc)
{
    (void)uc;
    fault_sig = sig;
    fault_info = *si;
    siglongjmp(fault_out, 1);
}
static void catch_faults(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    OK(sigaction(SIGSEGV, &sa, 0));
    OK(sigaction(SIGBUS, &sa, 0));
}
// Runs an access; 0 when it worked, else the signal's number.
#define FAULTS(expr) (fault_sig = 0, sigsetjmp(fault_out, 1) == 0 ? ((void)(expr), 0) : fault_sig)

CHECK(anon_is_zero_and_writable)
{
    char *p = MAP(mmap(0, 16 * PAGE, RW, ANON, -1, 0));
    for (int i = 0; i < 16 * PAGE; i++) EQ(p[i], 0);
    memset(p, 0x5a, 16 * PAGE);
    for (int i = 0; i < 16 * PAGE; i++) EQ(p[i], 0x5a);
    OK(munmap(p, 16 * PAGE));
}

CHECK(mmap_length_is_rounded_up)
{
    char *p = MAP(mmap(0, 100, RW, ANON, -1, 0));
    p[PAGE - 1] = 7;
    EQ(p[PAGE - 1], 7);
    EQ((uintptr_t)p % PAGE, 0);
    OK(munmap(p, 100));
    ERR(mincore(p, PAGE, (unsigned char[1]){0}), ENOMEM);
}

CHECK(mmap_bad_arguments)
{
    ERR(mmap(0, 0, RW, ANON, -1, 0), EINVAL);
    ERR(mmap((void *)123, PAGE, RW, ANON | MAP_FIXED, -1, 0), EINVAL);
    ERR(mmap(0, PAGE, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
    ERR(mmap(0, PAGE, RW, MAP_PRIVATE, -1, 0), EBADF);
    ERR(mmap(0, SIZE_MAX - PAGE, RW, ANON, -1, 0), ENOMEM);
    int fd = file_of(PAGE, 'x');
    ERR(mmap(0, PAGE, RW, MAP_PRIVATE, fd, 123), EINVAL);
    close(fd);
    fd = OK(open("map", O_RDONLY));
    ERR(mmap(0, PAGE, RW, MAP_SHARED, fd, 0), EACCES);
    close(fd);
    fd = OK(open("map", O_WRONLY));
    ERR(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 0), EACCES);
}

CHECK(munmap_hole_in_the_middle)
{
    char *p = MAP(mmap(0, 3 * PAGE, RW, ANON, -1, 0));
    p[0] = 1, p[2 * PAGE] = 3;
    OK(munmap(p + PAGE, PAGE));
    EQ(p[0], 1);
    EQ(p[2 * PAGE], 3);
    catch_faults();
    EQ(FAULTS(p[PAGE] = 1), SIGSEGV);
    OK(munmap(p + PAGE, PAGE)); // nothing is mapped there: no error
    ERR(munmap(p + 1, PAGE), EINVAL);
    ERR(munmap(p, 0), EINVAL);
}

CHECK(map_fixed_replaces)
{
    char *p = MAP(mmap(0, 4 * PAGE, RW, ANON, -1, 0));
    memset(p, 1, 4 * PAGE);
    EQ(mmap(p + PAGE, 2 * PAGE, RW, ANON | MAP_FIXED, -1, 0), p + PAGE);
    EQ(p[0], 1);
    EQ(p[PAGE], 0);
    EQ(p[3 * PAGE - 1], 0);
    EQ(p[3 * PAGE], 1);
}

CHECK(map_fixed_noreplace)
{
    char *p = MAP(mmap(0, 2 * PAGE, RW, ANON, -1, 0));
    ERR(mmap(p + PAGE, PAGE, RW, ANON | 0x100000, -1, 0), EEXIST);
    OK(munmap(p + PAGE, PAGE));
    EQ(mmap(p + PAGE, PAGE, RW, ANON | 0x100000, -1, 0), p + PAGE);
}

CHECK(map_hint_is_taken_when_free)
{
    char *p = MAP(mmap(0, 8 * PAGE, RW, ANON, -1, 0));
    OK(munmap(p, 8 * PAGE));
    EQ(mmap(p, 8 * PAGE, RW, ANON, -1, 0), p);
    char *q = MAP(mmap(p, PAGE, RW, ANON, -1, 0));
    T(q != p);
}

CHECK(mprotect_read_only_faults)
{
    char *p = MAP(mmap(0, 2 * PAGE, RW, ANON, -1, 0));
    p[0] = 9;
    OK(mprotect(p, PAGE, PROT_READ));
    catch_faults();
    EQ(p[0], 9);
    EQ(FAULTS(p[5] = 1), SIGSEGV);
    EQ(fault_info.si_code, SEGV_ACCERR);
    EQ(fault_info.si_addr, p + 5);
    p[PAGE] = 4;
    OK(mprotect(p, PAGE, RW));
    p[5] = 2;
    EQ(p[5], 2);
}

CHECK(mprotect_none_then_back)
{
    volatile char *p = MAP(mmap(0, 3 * PAGE, RW, ANON, -1, 0));
    for (int i = 0; i < 3; i++) p[i * PAGE] = 10 + i;
    OK(mprotect((void *)(p + PAGE), PAGE, PROT_NONE));
    catch_faults();
    EQ(FAULTS(p[PAGE]), SIGSEGV);
    EQ(fault_info.si_code, SEGV_ACCERR);
    OK(mprotect((void *)(p + PAGE), PAGE, PROT_READ));
    EQ(p[PAGE], 11);
    EQ(p[2 * PAGE], 12);
}

CHECK(mprotect_errors)
{
    char *p = MAP(mmap(0, 3 * PAGE, RW, ANON, -1, 0));
    ERR(syscall(SYS_mprotect, p + 1, PAGE, PROT_READ), EINVAL); // musl rounds by itself
    OK(munmap(p + PAGE, PAGE));
    ERR(mprotect(p, 3 * PAGE, PROT_READ), ENOMEM);
    OK(mprotect(p, 0, PROT_READ));
}

CHECK(exec_permission)
{
    unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3}; // mov $42,%eax; ret
    unsigned char *p = MAP(mmap(0, PAGE, RW, ANON, -1, 0));
    memcpy(p, code, sizeof code);
    catch_faults();
    EQ(FAULTS(((int (*)(void))p)()), SIGSEGV);
    EQ(fault_info.si_addr, p);
    OK(mprotect(p, PAGE, PROT_READ | PROT_EXEC));
    EQ(((int (*)(void))p)(), 42);
}

CHECK(unmapped_siginfo)
{
    catch_faults();
    EQ(FAULTS(*(volatile char *)16), SIGSEGV);
    EQ(fault_info.si_signo, SIGSEGV);
    EQ(fault_info.si_code, SEGV_MAPERR);
    EQ(fault_info.si_addr, 16);
    volatile char *hole = (char *)0x00007f0000000000 - 64 * PAGE;
    munmap((void *)hole, PAGE);
    EQ(FAULTS(*hole), SIGSEGV);
    EQ(fault_info.si_addr, hole);
}

CHECK(non_canonical_address)
{
    catch_faults();
    EQ(FAULTS(*(volatile char *)0x8000000000000000), SIGSEGV);
    EQ(FAULTS(*(volatile char *)0xffffffff80000000), SIGSEGV); // the kernel's half
}

CHECK(madvise_dontneed_zeroes)
{
    char *p = MAP(mmap(0, 64 * PAGE, RW, ANON, -1, 0));
    memset(p, 0xff, 64 * PAGE);
    OK(madvise(p + PAGE, 62 * PAGE, MADV_DONTNEED));
    EQ((unsigned char)p[0], 0xff);
    EQ((unsigned char)p[63 * PAGE], 0xff);
    for (int i = PAGE; i < 63 * PAGE; i++) EQ(p[i], 0);
    p[5 * PAGE] = 1;
    EQ(p[5 * PAGE], 1);
}

CHECK(madvise_dontneed_private_file_rereads)
{
    int fd = file_of(2 * PAGE, 'a');
    char *p = MAP(mmap(0, 2 * PAGE, RW, MAP_PRIVATE, fd, 0));
    p[0] = 'z';
    OK(madvise(p, 2 * PAGE, MADV_DONTNEED));
    EQ(p[0], 'a');
}

CHECK(madvise_free_and_hints)
{
    char *p = MAP(mmap(0, 8 * PAGE, RW, ANON, -1, 0));
    memset(p, 3, 8 * PAGE);
    OK(madvise(p, 8 * PAGE, MADV_WILLNEED));
    OK(madvise(p, 8 * PAGE, MADV_RANDOM));
    OK(madvise(p, 8 * PAGE, MADV_SEQUENTIAL));
    OK(madvise(p, 8 * PAGE, MADV_NORMAL));
    OK(madvise(p, 8 * PAGE, MADV_DONTDUMP));
    EQ(p[8 * PAGE - 1], 3);
    OK(madvise(p, 8 * PAGE, MADV_FREE));
    T(p[0] == 3 || p[0] == 0);
    p[0] = 8;
    EQ(p[0], 8);
    ERR(madvise(p, PAGE, 9999), EINVAL);
    ERR(madvise(p + 1, PAGE, MADV_NORMAL), EINVAL);
    OK(munmap(p + PAGE, PAGE));
    ERR(madvise(p, 3 * PAGE, MADV_DONTNEED), ENOMEM);
}

CHECK(madvise_dontfork)
{
    char *p = MAP(mmap(0, PAGE, RW, ANON, -1, 0));
    *p = 1;
    OK(madvise(p, PAGE, MADV_DONTFORK));
    DIES(CHILD(signal(SIGSEGV, SIG_DFL); *(volatile char *)p = 2), SIGSEGV);
    EQ(*p, 1);
}

CHECK(madvise_wipeonfork)
{
    char *p = MAP(mmap(0, PAGE, RW, ANON, -1, 0));
    *p = 1;
    OK(madvise(p, PAGE, 18));
    EXITS(CHILD(_exit(*p)), 0);
    EQ(*p, 1);
}

CHECK(brk_grows_and_shrinks)
{
    char *b = (char *)syscall(SYS_brk, 0);
    T(b != 0);
    EQ(syscall(SYS_brk, b + 10 * PAGE), b + 10 * PAGE);
    for (int i = 0; i < 9 * PAGE; i++) EQ(b[i], 0);
    memset(b, 1, 10 * PAGE);
    EQ(syscall(SYS_brk, b), b);
    EQ(syscall(SYS_brk, b + 10 * PAGE), b + 10 * PAGE);
    char *page = (char *)(((uintptr_t)b + PAGE - 1) & -PAGE);
    EQ(page[0], 0); // came back fresh
    EQ(syscall(SYS_brk, b), b);
    EQ(syscall(SYS_brk, 1), b); // refused: the break stays
}

CHECK(mremap_grow_moves_contents)
{
    char *p = MAP(mmap(0, 4 * PAGE, RW, ANON, -1, 0));
    for (int i = 0; i < 4; i++) p[i * PAGE] = 'a' + i;
    // something right behind it, so that it has to move
    mmap(p + 4 * PAGE, PAGE, RW, ANON | 0x100000, -1, 0);
    ERR(mremap(p, 4 * PAGE, 64 * PAGE, 0), ENOMEM);
    char *q = MAP(mremap(p, 4 * PAGE, 64 * PAGE, MREMAP_MAYMOVE));
    T(q != p);
    for (int i = 0; i < 4; i++) EQ(q[i * PAGE], 'a' + i);
    EQ(q[63 * PAGE], 0);
    q[63 * PAGE] = 1;
    catch_faults();
    EQ(FAULTS(*(volatile char *)p), SIGSEGV);
}

CHECK(mremap_shrink)
{
    volatile char *p = MAP(mmap(0, 4 * PAGE, RW, ANON, -1, 0));
    p[0] = 5;
    EQ(mremap((void *)p, 4 * PAGE, PAGE, 0), p);
    EQ(p[0], 5);
    catch_faults();
    EQ(FAULTS(p[PAGE]), SIGSEGV);
}

CHECK(mremap_fixed)
{
    char *p = MAP(mmap(0, 2 * PAGE, RW, ANON, -1, 0));
    char *q = MAP(mmap(0, 4 * PAGE, RW, ANON, -1, 0));
    p[0] = 1, p[PAGE] = 2;
    memset(q, 9, 4 * PAGE);
    EQ(mremap(p, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q + PAGE), q + PAGE);
    EQ(q[0], 9);
    EQ(q[PAGE], 1);
    EQ(q[2 * PAGE], 2);
    EQ(q[3 * PAGE], 9);
    ERR(mremap(p, 2 * PAGE, PAGE, 0), EFAULT);
    ERR(mremap(q + 1, PAGE, PAGE, 0), EINVAL);
    ERR(mremap(q, PAGE, 0, 0), EINVAL);
}

CHECK(private_file_mapping)
{
    int fd = file_of(2 * PAGE, 'f');
    char *p = MAP(mmap(0, 2 * PAGE, RW, MAP_PRIVATE, fd, 0));
    close(fd);
    EQ(p[0], 'f');
    EQ(p[2 * PAGE - 1], 'f');
    p[0] = 'p';
    fd = OK(open("map", O_RDONLY));
    char c;
    EQ(pread(fd, &c, 1, 0), 1);
    EQ(c, 'f');
    EQ(p[0], 'p');
}

CHECK(shared_file_mapping_is_coherent)
{
    int fd = file_of(4 * PAGE, 'f');
    char *p = MAP(mmap(0, 4 * PAGE, RW, MAP_SHARED, fd, 0)), c;
    p[PAGE + 3] = 'S';
    EQ(pread(fd, &c, 1, PAGE + 3), 1);
    EQ(c, 'S');
    EQ(pwrite(fd, "W", 1, 2 * PAGE), 1);
    EQ(p[2 * PAGE], 'W');
    OK(msync(p, 4 * PAGE, MS_SYNC));
    char *q = MAP(mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, PAGE));
    EQ(q[3], 'S');
    p[PAGE] = '!';
    EQ(q[0], '!');
}

CHECK(file_mapping_offset_and_tail)
{
    int fd = file_of(PAGE + 100, 't');
    char *p = MAP(mmap(0, PAGE, RW, MAP_PRIVATE, fd, PAGE));
    EQ(p[99], 't');
    EQ(p[100], 0); // the rest of the last page is zero
    EQ(p[PAGE - 1], 0);
}

CHECK(file_mapping_past_the_end_is_sigbus)
{
    int fd = file_of(PAGE, 'b');
    volatile char *p = MAP(mmap(0, 3 * PAGE, RW, MAP_SHARED, fd, 0));
    catch_faults();
    EQ(p[0], 'b');
    EQ(FAULTS(p[2 * PAGE]), SIGBUS);
    EQ(fault_info.si_code, BUS_ADRERR);
    EQ(fault_info.si_addr, p + 2 * PAGE);
    OK(ftruncate(fd, 3 * PAGE));
    EQ(p[2 * PAGE], 0);
}

CHECK(truncate_cuts_a_mapping)
{
    int fd = file_of(2 * PAGE, 'c');
    volatile char *p = MAP(mmap(0, 2 * PAGE, RW, MAP_SHARED, fd, 0));
    EQ(p[PAGE], 'c');
    OK(ftruncate(fd, 10));
    catch_faults();
    EQ(FAULTS(p[PAGE]), SIGBUS);
    EQ(p[9], 'c');
    EQ(p[10], 0);
}

CHECK(fork_copies_on_write)
{
    char *p = MAP(mmap(0, 64 * PAGE, RW, ANON, -1, 0));
    for (int i = 0; i < 64; i++) p[i * PAGE] = i;
    pid_t c = CHILD({
        for (int i = 0; i < 64; i++) EQ(p[i * PAGE], i);
        for (int i = 0; i < 64; i++) p[i * PAGE] = 100;
        for (int i = 0; i < 64; i++) EQ(p[i * PAGE], 100);
    });
    for (int i = 0; i < 32; i++) p[i * PAGE] = i + 1; // the parent writes meanwhile
    EXITS(c, 0);
    for (int i = 0; i < 64; i++) EQ(p[i * PAGE], i < 32 ? i + 1 : i);
}

CHECK(fork_of_a_fork_copies_on_write)
{
    int *p = MAP(mmap(0, PAGE, RW, ANON, -1, 0));
    *p = 1;
    pid_t c = CHILD({
        *p = 2;
        EXITS(CHILD(EQ(*p, 2); *p = 3; EQ(*p, 3)), 0);
        EQ(*p, 2);
    });
    EXITS(c, 0);
    EQ(*p, 1);
}

CHECK(shared_anonymous_crosses_fork)
{
    volatile int *p = MAP(mmap(0, 2 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    EXITS(CHILD(p[0] = 77; p[1024] = 78), 0);
    EQ(p[0], 77);
    EQ(p[1024], 78);
}

CHECK(kernel_write_breaks_cow)
{
    // read() into a page shared by copy-on-write must not write into the parent's page
    char *p = MAP(mmap(0, PAGE, RW, ANON, -1, 0));
    strcpy(p, "before");
    int fd = file_of(PAGE, 'k');
    EXITS(CHILD(EQ(pread(fd, p, 10, 0), 10); EQ(p[0], 'k')), 0);
    T(!strcmp(p, "before"));
}

CHECK(huge_reservation_is_sparse)
{
    size_t len = 1UL << 36; // 64 GB of addresses
    char *p = MAP(mmap(0, len, RW, ANON | MAP_NORESERVE, -1, 0));
    for (size_t i = 0; i < len; i += len / 16) p[i] = 1;
    for (size_t i = 0; i < len; i += len / 16) EQ(p[i] + p[i + PAGE], 1);
    OK(munmap(p, len));
}

CHECK(eight_megabytes_and_back)
{
    for (int round = 0; round < 8; round++) {
        char *p = MAP(mmap(0, 8 << 20, RW, ANON, -1, 0));
        for (long i = 0; i < 8 << 20; i += PAGE) EQ(p[i], 0);
        memset(p, round + 1, 8 << 20);
        EQ(p[(8 << 20) - 1], round + 1);
        OK(munmap(p, 8 << 20));
    }
}

CHECK(mincore_counts_pages)
{
    char *p = MAP(mmap(0, 4 * PAGE, RW, ANON, -1, 0));
    unsigned char v[4];
    p[PAGE] = 1;
    OK(mincore(p, 4 * PAGE, v));
    EQ(v[1] & 1, 1);
    EQ(v[3] & 1, 0);
    ERR(mincore(p + 1, PAGE, v), EINVAL);
}

CHECK(msync_errors)
{
    char *p = MAP(mmap(0, 2 * PAGE, RW, ANON, -1, 0));
    ERR(msync(p, PAGE, MS_SYNC | MS_ASYNC), EINVAL);
    ERR(msync(p + 1, PAGE, MS_SYNC), EINVAL);
    OK(munmap(p + PAGE, PAGE));
    ERR(msync(p, 2 * PAGE, MS_SYNC), ENOMEM);
}

CHECK(map_populate_and_locked)
{
    char *p = MAP(mmap(0, 4 * PAGE, RW, ANON | MAP_POPULATE, -1, 0));
    unsigned char v[4];
    OK(mincore(p, 4 * PAGE, v));
    EQ(v[0] & v[1] & v[2] & v[3] & 1, 1);
    OK(mlock(p, 4 * PAGE));
    OK(munlock(p, 4 * PAGE));
}

CHECK(many_mappings)
{
    // alternate protections so that neighbours cannot merge, then take them away in two passes
    char *p = MAP(mmap(0, 2000 * PAGE, PROT_NONE, ANON, -1, 0));
    for (int i = 0; i < 2000; i += 2) OK(mprotect(p + i * PAGE, PAGE, RW));
    for (int i = 0; i < 2000; i += 2) p[i * PAGE] = i;
    for (int i = 0; i < 2000; i += 4) OK(munmap(p + i * PAGE, PAGE));
    for (int i = 2; i < 2000; i += 4) EQ(p[i * PAGE], (char)i);
    OK(munmap(p, 2000 * PAGE));
}

CHECK(stack_grows)
{
    struct rlimit rl;
    OK(getrlimit(RLIMIT_STACK, &rl));
    volatile char big[4 << 20];
    for (long i = sizeof big - 1; i >= 0; i -= 1024) big[i] = i;
    EQ(big[sizeof big - 1], (char)(sizeof big - 1));
}

__attribute__((noinline)) static int touch_down(volatile char *q)
{
    for (int i = 0; i < 1 << 20; i++) q[-i * PAGE] = 1;
    return 0;
}

CHECK(stack_overflow_on_altstack)
{
    stack_t ss = {.ss_sp = MAP(mmap(0, 64 << 10, RW, ANON, -1, 0)), .ss_size = 64 << 10};
    OK(sigaltstack(&ss, 0));
    struct rlimit rl = {1 << 20, RLIM_INFINITY};
    OK(getrlimit(RLIMIT_STACK, &rl));
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    OK(sigaction(SIGSEGV, &sa, 0));
    char *sp = __builtin_frame_address(0);
    EQ(FAULTS(touch_down(sp)), SIGSEGV);
}
