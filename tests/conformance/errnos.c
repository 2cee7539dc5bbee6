// Which error wins when several apply, bad pointers, unknown calls: as Linux decides it.
#include "conf.h"
#include <sys/epoll.h>

#define BAD ((void *)8)
#define KERNEL ((void *)0xffffffff81000000)

CHECK(bad_descriptor_before_bad_pointer)
{
    ERR(syscall(SYS_read, -1, BAD, 10), EBADF);
    ERR(syscall(SYS_write, 900, BAD, 10), EBADF);
    ERR(syscall(SYS_readv, -1, BAD, 1), EBADF);
    ERR(syscall(SYS_fstat, -1, BAD), EBADF);
    ERR(syscall(SYS_getdents64, -1, BAD, 10), EBADF);
    ERR(syscall(SYS_ioctl, -1, 0x5401, BAD), EBADF);
    ERR(syscall(SYS_fcntl, -1, 9999, 0), EBADF);
    ERR(syscall(SYS_sendto, -1, BAD, 1, 0, BAD, 16), EBADF);
    ERR(syscall(SYS_epoll_wait, -1, BAD, 1, 0), EBADF);
}

CHECK(bad_pointer_gives_efault)
{
    int fd = OK(open("/dev/zero", O_RDWR)), p[2];
    OK(pipe(p));
    ERR(syscall(SYS_read, fd, BAD, 10), EFAULT);
    ERR(syscall(SYS_read, fd, KERNEL, 10), EFAULT);
    ERR(syscall(SYS_write, p[1], BAD, 10), EFAULT);
    ERR(syscall(SYS_write, p[1], KERNEL, 10), EFAULT);
    ERR(syscall(SYS_pipe2, BAD, 0), EFAULT);
    ERR(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, BAD), EFAULT);
    ERR(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, KERNEL), EFAULT);
    ERR(syscall(SYS_nanosleep, BAD, 0), EFAULT);
    ERR(syscall(SYS_uname, BAD), EFAULT);
    ERR(syscall(SYS_getrlimit, RLIMIT_NOFILE, BAD), EFAULT);
    ERR(syscall(SYS_rt_sigaction, SIGUSR1, BAD, 0, 8), EFAULT);
    ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, BAD, 0, 8), EFAULT);
    ERR(syscall(SYS_execve, BAD, 0, 0), EFAULT);
    ERR(syscall(SYS_stat, BAD, BAD), EFAULT);
    ERR(syscall(SYS_getrandom, BAD, 10, 0), EFAULT);
    ERR(syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, BAD), EFAULT);
    ERR(syscall(SYS_chdir, KERNEL), EFAULT);
}

CHECK(pointer_wraps_around)
{
    int fd = OK(open("/dev/zero", O_RDONLY));
    ERR(syscall(SYS_read, fd, (void *)-10L, 100), EFAULT);
    ERR(syscall(SYS_read, fd, (void *)0x7fffffffffff, 100), EFAULT);
    ERR(syscall(SYS_read, fd, BAD, -1L), EFAULT);
}

CHECK(partial_transfer_before_the_fault)
{
    // the first page is good, the second is not: what fits is transferred
    char *p = MAP(mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(munmap(p + PAGE, PAGE));
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    memset(p, 'p', PAGE);
    EQ(syscall(SYS_write, fd, p + PAGE - 10, 20), 10);
    EQ(lseek(fd, 0, SEEK_SET), 0);
    long n = syscall(SYS_read, fd, p + PAGE - 5, 10);
    EQ(n, 5);
}

CHECK(read_only_page_gives_efault)
{
    char *p = MAP(mmap(0, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    int fd = OK(open("/dev/zero", O_RDONLY));
    ERR(syscall(SYS_read, fd, p, 10), EFAULT);
    char *none = MAP(mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    int q[2];
    OK(pipe(q));
    ERR(syscall(SYS_write, q[1], none, 10), EFAULT);
}

CHECK(untouched_memory_is_filled_by_the_kernel)
{
    // the kernel must take page faults of its own on lazily mapped and copy-on-write memory
    char *p = MAP(mmap(0, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    EQ(syscall(SYS_write, fd, p, 64 * PAGE), 64 * PAGE);
    char *q = MAP(mmap(0, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EQ(lseek(fd, 0, SEEK_SET), 0);
    EQ(syscall(SYS_read, fd, q, 64 * PAGE), 64 * PAGE);
    EQ(q[63 * PAGE], 0);
}

CHECK(unknown_calls)
{
    ERR(syscall(5000), ENOSYS);
    ERR(syscall(-1), ENOSYS);
    ERR(syscall(100000000), ENOSYS);
    ERR(syscall(180), ENOSYS); // nfsservctl, gone from Linux
}

CHECK(zero_lengths)
{
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600)), p[2];
    OK(pipe(p));
    EQ(syscall(SYS_read, fd, BAD, 0), 0);
    EQ(syscall(SYS_write, fd, BAD, 0), 0);
    EQ(syscall(SYS_write, p[1], BAD, 0), 0);
    EQ(syscall(SYS_readv, fd, BAD, 0), 0);
    EQ(syscall(SYS_getrandom, BAD, 0, 0), 0);
}

CHECK(wrong_kind_of_descriptor)
{
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600)), p[2], d = OK(open(".", O_RDONLY));
    OK(pipe(p));
    char b[64];
    struct epoll_event e = {0};
    ERR(read(d, b, 1), EISDIR);
    ERR(write(d, b, 1), EBADF);
    ERR(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, p[0], 0), ENODEV);
    ERR(ftruncate(p[1], 0), EINVAL);
    ERR(send(fd, b, 1, 0), ENOTSOCK);
    ERR(epoll_wait(fd, &e, 1, 0), EINVAL);
    ERR(syscall(SYS_timerfd_settime, fd, 0, b, 0), EINVAL);
    ERR(fchdir(fd), ENOTDIR);
    ERR(lseek(p[0], 0, SEEK_SET), ESPIPE);
    ERR(syscall(SYS_getdents64, fd, b, 64), ENOTDIR);
}

CHECK(bad_flags)
{
    int p[2];
    ERR(pipe2(p, 1), EINVAL);
    ERR(syscall(SYS_eventfd2, 0, 1 << 30), EINVAL);
    ERR(syscall(SYS_signalfd4, -1, BAD, 8, 1), EFAULT); // the mask is read first
    ERR(syscall(SYS_accept4, -1, 0, 0, 1), EBADF);
    ERR(syscall(SYS_memfd_create, "m", 1 << 30), EINVAL);
    ERR(syscall(SYS_clock_gettime, 999, BAD), EINVAL);
    ERR(syscall(SYS_rt_sigprocmask, 99, BAD, 0, 8), EFAULT);
    ERR(syscall(SYS_rt_sigaction, SIGUSR1, 0, 0, 4), EINVAL);
    ERR(syscall(SYS_madvise, 1, PAGE, 9999), EINVAL);
    ERR(syscall(SYS_getrandom, BAD, 1, 99), EINVAL);
    ERR(syscall(SYS_unlinkat, AT_FDCWD, "x", 1), EINVAL);
    ERR(syscall(SYS_wait4, -1, 0, 0x100, 0), EINVAL);
}

CHECK(permission_and_existence)
{
    ERR(execl("/dev/null", "x", (char *)0), EACCES);
    ERR(execl(".", "x", (char *)0), EACCES);
    ERR(execl("/no/such", "x", (char *)0), ENOENT);
    close(OK(open("f", O_RDWR | O_CREAT, 0600)));
    ERR(execl("f", "x", (char *)0), EACCES);
    OK(chmod("f", 0700));
    ERR(syscall(SYS_execve, "f", (char *[]){"f", 0}, 0), ENOEXEC);
    ERR(execl("f/x", "x", (char *)0), ENOTDIR);
    ERR(open("/proc/self/nothing", O_RDONLY), ENOENT);
    ERR(mkdir("/", 0755), EEXIST);
    T(rmdir("/") == -1 && (errno == EBUSY || errno == ENOTEMPTY));
}
