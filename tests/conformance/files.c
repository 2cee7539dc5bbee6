// Files: open flags, reading and writing, offsets, sizes, descriptors, locks, copying between descriptors.
#include "conf.h"
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>

static int create(const char *name, const char *text)
{
    int fd = OK(open(name, O_RDWR | O_CREAT | O_TRUNC, 0644));
    EQ(write(fd, text, strlen(text)), strlen(text));
    return fd;
}
static const char *content(int fd)
{
    static char buf[4096];
    ssize_t n = OK(pread(fd, buf, sizeof buf - 1, 0));
    buf[n] = 0;
    return buf;
}
#define SAME(a, b)                                                                               \
    do {                                                                                         \
        const char *a_ = (a), *b_ = (b);                                                         \
        if (strcmp(a_, b_)) FAIL("line %d: \"%s\", expected \"%s\"", __LINE__, a_, b_);          \
    } while (0)

CHECK(open_flags)
{
    ERR(open("absent", O_RDONLY), ENOENT);
    ERR(open("absent/x", O_RDONLY | O_CREAT, 0600), ENOENT);
    ERR(open("", O_RDONLY), ENOENT);
    close(create("f", "abc"));
    ERR(open("f", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    ERR(open("f/x", O_RDONLY), ENOTDIR);
    ERR(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
    ERR(open(".", O_WRONLY), EISDIR);
    ERR(open(".", O_RDONLY | O_CREAT, 0600), EISDIR);
    int fd = OK(open("f", O_RDONLY));
    ERR(write(fd, "x", 1), EBADF);
    close(fd);
    fd = OK(open("f", O_WRONLY));
    char c;
    ERR(read(fd, &c, 1), EBADF);
    close(fd);
    fd = OK(open("f", O_RDWR | O_TRUNC));
    EQ(read(fd, &c, 1), 0);
    ERR(open((char *)8, O_RDONLY), EFAULT);
    char name[5000];
    memset(name, 'n', sizeof name);
    name[300] = 0;
    ERR(open(name, O_RDONLY), ENAMETOOLONG);
    name[300] = '/', name[4999] = 0;
    ERR(open(name, O_RDONLY), ENAMETOOLONG);
}

CHECK(lowest_descriptor_first)
{
    int a = OK(open("/dev/null", O_RDONLY)), b = OK(dup(a)), c = OK(dup(a));
    T(a < b && b < c);
    OK(close(b));
    EQ(open("/dev/null", O_RDONLY), b);
    ERR(close(1000), EBADF);
    ERR(close(-1), EBADF);
}

CHECK(append)
{
    int fd = create("f", "one"), ap = OK(open("f", O_WRONLY | O_APPEND));
    EQ(lseek(ap, 0, SEEK_SET), 0);
    EQ(write(ap, "two", 3), 3);
    EQ(lseek(ap, 0, SEEK_CUR), 6);
    EQ(pwrite(ap, "three", 5, 0), 5); // as Linux does it: appends all the same
    SAME(content(fd), "onetwothree");
}

CHECK(pread_pwrite_leave_the_offset)
{
    int fd = create("f", "0123456789");
    char buf[4] = {0};
    EQ(lseek(fd, 2, SEEK_SET), 2);
    EQ(pread(fd, buf, 3, 5), 3);
    SAME(buf, "567");
    EQ(pwrite(fd, "AB", 2, 8), 2);
    EQ(lseek(fd, 0, SEEK_CUR), 2);
    SAME(content(fd), "01234567AB");
    ERR(pread(fd, buf, 1, -1), EINVAL);
}

CHECK(readv_writev)
{
    int fd = create("f", "");
    struct iovec w[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
    EQ(writev(fd, w, 3), 5);
    char a[2], b[10] = {0};
    struct iovec r[2] = {{a, 2}, {b, 10}};
    EQ(lseek(fd, 0, SEEK_SET), 0);
    EQ(readv(fd, r, 2), 5);
    T(a[0] == 'a' && a[1] == 'b' && !strcmp(b, "cde"));
    EQ(preadv(fd, r, 1, 3), 2);
    T(a[0] == 'd' && a[1] == 'e');
    EQ(pwritev(fd, w, 1, 3), 2);
    SAME(content(fd), "abcab");
    ERR(readv(fd, r, -1), EINVAL);
    ERR(syscall(SYS_readv, fd, r, 1025), EINVAL);
    ERR(syscall(SYS_readv, fd, (struct iovec *)8, 1), EFAULT);
}

CHECK(lseek_whence)
{
    int fd = create("f", "0123456789");
    EQ(lseek(fd, -3, SEEK_END), 7);
    EQ(lseek(fd, 2, SEEK_CUR), 9);
    EQ(lseek(fd, 100, SEEK_SET), 100);
    char c;
    EQ(read(fd, &c, 1), 0);
    ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    ERR(lseek(fd, 0, 99), EINVAL);
    EQ(write(fd, "z", 1), 1);
    EQ(lseek(fd, 0, SEEK_END), 101);
    EQ(pread(fd, &c, 1, 50), 1);
    EQ(c, 0); // the hole
    EQ(lseek(fd, 0, SEEK_DATA), 0);
    EQ(lseek(fd, 0, SEEK_HOLE) <= 101, 1);
    ERR(lseek(fd, 200, SEEK_DATA), ENXIO);
}

CHECK(truncate_both_ways)
{
    int fd = create("f", "0123456789");
    OK(ftruncate(fd, 4));
    SAME(content(fd), "0123");
    OK(ftruncate(fd, 8));
    char buf[8];
    EQ(pread(fd, buf, 8, 0), 8);
    T(!memcmp(buf, "0123\0\0\0\0", 8));
    OK(truncate("f", 1));
    SAME(content(fd), "0");
    ERR(ftruncate(fd, -1), EINVAL);
    ERR(truncate("absent", 1), ENOENT);
    ERR(truncate(".", 1), EISDIR);
    close(fd);
    fd = OK(open("f", O_RDONLY));
    ERR(ftruncate(fd, 0), EINVAL);
}

CHECK(large_file)
{
    int fd = create("f", "");
    char buf[3000], got[3000];
    for (int i = 0; i < 400; i++) {
        memset(buf, i, sizeof buf);
        EQ(write(fd, buf, sizeof buf), sizeof buf);
    }
    for (int i = 399; i >= 0; i -= 7) {
        memset(buf, i, sizeof buf);
        EQ(pread(fd, got, sizeof got, i * 3000L), 3000);
        T(!memcmp(buf, got, sizeof got));
    }
    EQ(pwrite(fd, "end", 3, 5L << 30), 3); // sparse past 4 GB
    EQ(lseek(fd, 0, SEEK_END), (5L << 30) + 3);
    EQ(pread(fd, got, 3, 3L << 30), 3);
    EQ(got[0], 0);
}

CHECK(unlink_while_open)
{
    int fd = create("f", "still here");
    OK(unlink("f"));
    ERR(access("f", F_OK), ENOENT);
    SAME(content(fd), "still here");
    struct stat st;
    OK(fstat(fd, &st));
    EQ(st.st_nlink, 0);
    EQ(write(fd, "!", 1), 1);
}

CHECK(dup_shares_the_offset)
{
    int fd = create("f", "0123456789"), d = OK(dup(fd)), other = OK(open("f", O_RDONLY));
    EQ(lseek(d, 4, SEEK_SET), 4);
    EQ(lseek(fd, 0, SEEK_CUR), 4);
    EQ(lseek(other, 0, SEEK_CUR), 0);
    EQ(dup2(fd, 77), 77);
    EQ(lseek(77, 0, SEEK_CUR), 4);
    EQ(dup2(fd, fd), fd);
    ERR(dup2(500, 500), EBADF);
    ERR(dup(-1), EBADF);
    ERR(dup2(fd, 1 << 30), EBADF);
}

CHECK(dup3_and_cloexec)
{
    int fd = create("f", "");
    EQ(dup3(fd, 60, O_CLOEXEC), 60);
    EQ(fcntl(60, F_GETFD), FD_CLOEXEC);
    ERR(dup3(fd, fd, 0), EINVAL);
    EQ(fcntl(fd, F_GETFD), 0);
    OK(fcntl(fd, F_SETFD, FD_CLOEXEC));
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EQ(fcntl(dup(fd), F_GETFD), 0);
    EQ(fcntl(fd, F_DUPFD, 90), 90);
    EQ(fcntl(fd, F_DUPFD_CLOEXEC, 90), 91);
    EQ(fcntl(91, F_GETFD), FD_CLOEXEC);
    ERR(fcntl(fd, F_DUPFD, -1), EINVAL);
    ERR(fcntl(fd, 9999), EINVAL);
}

CHECK(fcntl_status_flags)
{
    int fd = OK(open("f", O_RDWR | O_CREAT | O_APPEND, 0600));
    EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_RDWR | O_APPEND);
    OK(fcntl(fd, F_SETFL, O_NONBLOCK));
    EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_RDWR | O_NONBLOCK);
}

CHECK(cloexec_range)
{
    int a = OK(dup2(create("f", ""), 80));
    EQ(dup2(a, 81), 81);
    EQ(dup2(a, 82), 82);
    OK(syscall(436, 80, 81, 0)); // close_range
    ERR(fcntl(80, F_GETFD), EBADF);
    ERR(fcntl(81, F_GETFD), EBADF);
    EQ(fcntl(82, F_GETFD), 0);
    OK(syscall(436, 82, ~0u, 4)); // CLOSE_RANGE_CLOEXEC
    EQ(fcntl(82, F_GETFD), FD_CLOEXEC);
    ERR(syscall(436, 5, 4, 0), EINVAL);
}

CHECK(flock_excludes)
{
    int a = create("f", ""), b = OK(open("f", O_RDWR));
    OK(flock(a, LOCK_EX));
    ERR(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    ERR(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    OK(flock(a, LOCK_SH));
    OK(flock(b, LOCK_SH | LOCK_NB));
    OK(flock(a, LOCK_UN));
    OK(flock(b, LOCK_EX | LOCK_NB));
    close(b);
    OK(flock(a, LOCK_EX | LOCK_NB));
}

CHECK(posix_locks_between_processes)
{
    int fd = create("f", "0123456789");
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 3};
    OK(fcntl(fd, F_SETLK, &l));
    EXITS(CHILD({
        struct flock q = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
        OK(fcntl(fd, F_GETLK, &q));
        EQ(q.l_type, F_WRLCK);
        EQ(q.l_start, 2);
        EQ(q.l_len, 3);
        EQ(q.l_pid, getppid());
        q = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 4, .l_len = 1};
        ERR(fcntl(fd, F_SETLK, &q), EAGAIN);
        q.l_start = 5;
        OK(fcntl(fd, F_SETLK, &q));
    }), 0);
    l.l_type = F_UNLCK;
    OK(fcntl(fd, F_SETLK, &l));
}

CHECK(open_file_description_locks)
{
    int a = create("f", ""), b = OK(open("f", O_RDWR));
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    OK(fcntl(a, F_OFD_SETLK, &l));
    ERR(fcntl(b, F_OFD_SETLK, &l), EAGAIN);
    l.l_type = F_UNLCK;
    OK(fcntl(a, F_OFD_SETLK, &l));
    l.l_type = F_WRLCK;
    OK(fcntl(b, F_OFD_SETLK, &l));
}

CHECK(blocking_lock_waits)
{
    int fd = create("f", "");
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int p[2];
    OK(pipe(p));
    pid_t c = CHILD(OK(fcntl(fd, F_SETLKW, &l)); OK(write(p[1], "x", 1)); sleep_ms(60));
    char x;
    EQ(read(p[0], &x, 1), 1);
    int64_t t0 = now_ns();
    OK(fcntl(fd, F_SETLKW, &l));
    T(now_ns() - t0 >= 20000000);
    EXITS(c, 0);
}

CHECK(sendfile_to_dev_null)
{
    int fd = create("f", "0123456789");
    int null = open("/dev/null", O_WRONLY);
    T(null >= 0);
    EQ(lseek(fd, 0, SEEK_SET), 0);
    EQ(sendfile(null, fd, 0, 100), 10);
    EQ(sendfile(null, fd, 0, 100), 0);
}

CHECK(sendfile_to_socket_and_file)
{
    int fd = create("f", "0123456789"), s[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    off_t at = 3;
    EQ(sendfile(s[0], fd, &at, 4), 4);
    EQ(at, 7);
    char buf[16] = {0};
    EQ(read(s[1], buf, 16), 4);
    SAME(buf, "3456");
    int out = create("g", "");
    EQ(lseek(fd, 0, SEEK_SET), 0);
    EQ(sendfile(out, fd, 0, 100), 10);
    SAME(content(out), "0123456789");
    EQ(sendfile(out, fd, 0, 100), 0);
}

CHECK(copy_file_range_copies)
{
    int in = create("f", "0123456789"), out = create("g", "xx");
    off_t from = 2, to = 1;
    EQ(syscall(SYS_copy_file_range, in, &from, out, &to, 5, 0), 5);
    EQ(from, 7);
    EQ(to, 6);
    SAME(content(out), "x23456");
}

CHECK(splice_and_tee)
{
    int fd = create("f", "0123456789"), a[2], b[2];
    char buf[16] = {0};
    OK(pipe(a));
    OK(pipe(b));
    loff_t at = 2;
    EQ(splice(fd, &at, a[1], 0, 6, 0), 6);
    EQ(at, 8);
    EQ(tee(a[0], b[1], 4, 0), 4);
    EQ(read(b[0], buf, 16), 4);
    SAME(buf, "2345");
    int out = create("g", "");
    EQ(splice(a[0], 0, out, 0, 100, 0), 6);
    SAME(content(out), "234567");
    ERR(splice(fd, 0, out, 0, 1, 0), EINVAL);
    struct iovec v = {"vm", 2};
    EQ(vmsplice(a[1], &v, 1, 0), 2);
    EQ(read(a[0], buf, 16), 2);
}

CHECK(memfd)
{
    int fd = OK(syscall(SYS_memfd_create, "mem", 3)); // CLOEXEC | ALLOW_SEALING
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EQ(write(fd, "abc", 3), 3);
    OK(ftruncate(fd, PAGE));
    char *p = MAP(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    EQ(p[1], 'b');
    p[1] = 'B';
    SAME(content(fd), "aBc");
    OK(munmap(p, PAGE));
    OK(fcntl(fd, 1033, 2 | 4)); // F_ADD_SEALS: SHRINK | GROW
    EQ(fcntl(fd, 1034), 6);
    ERR(ftruncate(fd, 1), EPERM);
    ERR(ftruncate(fd, 2 * PAGE), EPERM);
    OK(fcntl(fd, 1033, 8)); // WRITE
    ERR(write(fd, "x", 1), EPERM);
}

CHECK(fallocate_modes)
{
    int fd = create("f", "0123456789");
    OK(fallocate(fd, 0, 0, 100));
    EQ(lseek(fd, 0, SEEK_END), 100);
    OK(fallocate(fd, 1, 0, 8192)); // KEEP_SIZE
    EQ(lseek(fd, 0, SEEK_END), 100);
    OK(fallocate(fd, 3, 2, 3)); // PUNCH_HOLE | KEEP_SIZE
    char buf[10];
    EQ(pread(fd, buf, 10, 0), 10);
    T(!memcmp(buf, "01\0\0\0" "56789", 10));
    EQ(posix_fallocate(fd, 0, 200), 0);
    EQ(lseek(fd, 0, SEEK_END), 200);
    ERR(fallocate(fd, 0, 0, 0), EINVAL);
    EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL), 0);
}

CHECK(fsync_family)
{
    int fd = create("f", "x"), p[2];
    OK(fsync(fd));
    OK(fdatasync(fd));
    OK(syncfs(fd));
    OK(sync_file_range(fd, 0, 1, 7));
    sync();
    OK(pipe(p));
    ERR(fsync(p[0]), EINVAL);
    ERR(fsync(-1), EBADF);
}

CHECK(rlimit_nofile_is_kept)
{
    struct rlimit old, rl;
    OK(getrlimit(RLIMIT_NOFILE, &old));
    rl = (struct rlimit){20, old.rlim_max};
    OK(setrlimit(RLIMIT_NOFILE, &rl));
    int fd, last = -1;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
    EQ(errno, EMFILE);
    EQ(last, 19);
    ERR(fcntl(0, F_DUPFD, 20), EINVAL);
    OK(setrlimit(RLIMIT_NOFILE, &old));
    OK(open("/dev/null", O_RDONLY));
}

CHECK(ioctl_fionread_and_notty)
{
    int fd = create("f", "0123456789"), n = -1;
    OK(lseek(fd, 4, SEEK_SET));
    OK(ioctl(fd, 0x541b, &n)); // FIONREAD
    EQ(n, 6);
    EQ(isatty(fd), 0);
    EQ(errno, ENOTTY);
    ERR(ioctl(fd, 0x5401, (char[64]){0}), ENOTTY);
}

CHECK(o_tmpfile)
{
    int fd = OK(open(".", O_RDWR | O_TMPFILE, 0600));
    EQ(write(fd, "tmp", 3), 3);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    OK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    int g = OK(open("named", O_RDONLY));
    SAME(content(g), "tmp");
}

CHECK(concurrent_appends_do_not_tear)
{
    int fd = create("f", "");
    pid_t c[3];
    for (int i = 0; i < 3; i++)
        c[i] = CHILD({
            int ap = OK(open("f", O_WRONLY | O_APPEND));
            char line[17];
            memset(line, 'a' + i, 15);
            line[15] = '\n';
            for (int k = 0; k < 50; k++) EQ(write(ap, line, 16), 16);
        });
    for (int i = 0; i < 3; i++) EXITS(c[i], 0);
    const char *s = content(fd);
    EQ(strlen(s), 2400);
    for (int i = 0; i < 2400; i++) T(i % 16 == 15 ? s[i] == '\n' : s[i] == s[i - i % 16]);
}
