// Names and metadata: folders, links, rename, stat and statx, permissions, times, *at calls, inotify.
#include "conf.h"
#include <dirent.h>
#include <linux/stat.h>
#include <sys/inotify.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

static void create(const char *name, const char *text)
{
    int fd = OK(open(name, O_RDWR | O_CREAT | O_TRUNC, 0644));
    EQ(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}
static struct stat stat_of(const char *name)
{
    struct stat st;
    OK(lstat(name, &st));
    return st;
}

CHECK(mkdir_rmdir)
{
    OK(mkdir("d", 0755));
    ERR(mkdir("d", 0755), EEXIST);
    ERR(mkdir("no/d", 0755), ENOENT);
    OK(mkdir("d/e/", 0700));
    ERR(rmdir("d"), ENOTEMPTY);
    ERR(unlink("d"), EISDIR);
    OK(rmdir("d/e"));
    OK(rmdir("d"));
    ERR(rmdir("d"), ENOENT);
    create("f", "");
    ERR(rmdir("f"), ENOTDIR);
    ERR(mkdir("f/x", 0755), ENOTDIR);
    ERR(rmdir("."), EINVAL);
}

CHECK(nlink_of_folders)
{
    OK(mkdir("d", 0755));
    nlink_t n = stat_of("d").st_nlink;
    OK(mkdir("d/1", 0755));
    OK(mkdir("d/2", 0755));
    nlink_t m = stat_of("d").st_nlink;
    T(n == 1 ? m == 1 : m == n + 2); // some file systems do not count
}

CHECK(hard_links)
{
    create("f", "x");
    OK(link("f", "g"));
    EQ(stat_of("f").st_nlink, 2);
    EQ(stat_of("f").st_ino, stat_of("g").st_ino);
    ERR(link("f", "g"), EEXIST);
    ERR(link("absent", "h"), ENOENT);
    OK(mkdir("d", 0755));
    ERR(link("d", "h"), EPERM);
    OK(unlink("f"));
    EQ(stat_of("g").st_nlink, 1);
    int fd = OK(open("g", O_RDONLY));
    char c;
    EQ(read(fd, &c, 1), 1);
}

CHECK(symbolic_links)
{
    char buf[100];
    create("f", "abc");
    OK(symlink("f", "l"));
    EQ(readlink("l", buf, sizeof buf), 1);
    EQ(buf[0], 'f');
    T(S_ISLNK(stat_of("l").st_mode));
    EQ(stat_of("l").st_size, 1);
    struct stat st;
    OK(stat("l", &st));
    T(S_ISREG(st.st_mode));
    ERR(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
    ERR(readlink("f", buf, sizeof buf), EINVAL);
    ERR(symlink("x", "l"), EEXIST);
    OK(symlink("loop2", "loop1"));
    OK(symlink("loop1", "loop2"));
    ERR(open("loop1", O_RDONLY), ELOOP);
    OK(symlink("nowhere", "dangling"));
    ERR(stat("dangling", &st), ENOENT);
    OK(close(OK(open("dangling", O_WRONLY | O_CREAT, 0600)))); // creates the target
    OK(stat("nowhere", &st));
    ERR(open("l", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
    OK(mkdir("d", 0755));
    OK(symlink("d", "ld"));
    create("ld/inside", "1");
    OK(stat("d/inside", &st));
    EQ(readlink("l", buf, 1), 1);
}

CHECK(rename_replaces)
{
    create("a", "1");
    create("b", "22");
    ino_t ino = stat_of("a").st_ino;
    OK(rename("a", "b"));
    EQ(stat_of("b").st_ino, ino);
    EQ(stat_of("b").st_size, 1);
    ERR(access("a", F_OK), ENOENT);
    ERR(rename("a", "b"), ENOENT);
    OK(rename("b", "b"));
    OK(mkdir("d", 0755));
    OK(mkdir("e", 0755));
    create("e/x", "");
    ERR(rename("b", "d"), EISDIR);
    ERR(rename("d", "b"), ENOTDIR);
    ERR(rename("d", "e"), ENOTEMPTY);
    OK(unlink("e/x"));
    OK(rename("d", "e"));
    ERR(rename("e", "e/inside"), EINVAL);
}

CHECK(rename_of_an_open_folder_tree)
{
    OK(mkdir("d", 0755));
    OK(mkdir("d/e", 0755));
    create("d/e/f", "deep");
    OK(rename("d", "moved"));
    EQ(stat_of("moved/e/f").st_size, 4);
    OK(mkdir("other", 0755));
    OK(rename("moved/e", "other/e"));
    EQ(stat_of("other/e/f").st_size, 4);
    OK(chdir("other/e"));
    OK(chdir(".."));
    EQ(stat_of("e/f").st_size, 4);
}

CHECK(renameat2_flags)
{
    create("a", "1");
    create("b", "22");
    ERR(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", 1), EEXIST);
    OK(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", 2));
    EQ(stat_of("a").st_size, 2);
    EQ(stat_of("b").st_size, 1);
    ERR(syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", 3), EINVAL);
}

CHECK(read_folder)
{
    OK(mkdir("d", 0755));
    for (int i = 0; i < 300; i++) {
        char name[64];
        snprintf(name, sizeof name, "d/a-rather-long-file-name-number-%d", i);
        create(name, "");
    }
    OK(mkdir("d/sub", 0755));
    DIR *dir = opendir("d");
    T(dir != 0);
    int files = 0, dirs = 0, dots = 0, sum = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) dots++;
        else if (e->d_type == DT_DIR) dirs++;
        else if (e->d_type == DT_REG) files++, sum += atoi(strrchr(e->d_name, '-') + 1);
        T(e->d_ino != 0);
    }
    EQ(dots, 2);
    EQ(dirs, 1);
    EQ(files, 300);
    EQ(sum, 299 * 150);
    rewinddir(dir);
    T(readdir(dir) != 0);
    char small[8];
    ERR(syscall(SYS_getdents64, OK(open("d", O_RDONLY)), small, sizeof small), EINVAL);
    ERR(syscall(SYS_getdents64, OK(open("d/a-rather-long-file-name-number-1", O_RDONLY)), small, 8), ENOTDIR);
}

CHECK(read_folder_while_removing)
{
    OK(mkdir("d", 0755));
    for (int i = 0; i < 200; i++) {
        char name[32];
        snprintf(name, sizeof name, "d/%d", i);
        create(name, "");
    }
    DIR *dir = opendir("d");
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.') OK(unlinkat(dirfd(dir), e->d_name, 0)), n++;
    EQ(n, 200);
    OK(rmdir("d"));
}

CHECK(stat_fields)
{
    create("f", "12345");
    struct stat st = stat_of("f");
    EQ(st.st_size, 5);
    EQ(st.st_mode, S_IFREG | 0644);
    EQ(st.st_nlink, 1);
    EQ(st.st_uid, getuid());
    EQ(st.st_gid, getgid());
    T(st.st_ino != 0 && st.st_blksize >= 512);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    T(st.st_mtime >= now.tv_sec - 10 && st.st_mtime <= now.tv_sec + 1);
    EQ(stat_of(".").st_mode & S_IFMT, S_IFDIR);
    OK(stat("/dev/null", &st));
    EQ(st.st_mode & S_IFMT, S_IFCHR);
    EQ(major(st.st_rdev), 1);
    EQ(minor(st.st_rdev), 3);
    int p[2];
    OK(pipe(p));
    OK(fstat(p[0], &st));
    T(S_ISFIFO(st.st_mode));
    ERR(syscall(SYS_newfstatat, AT_FDCWD, "f", 8, 0), EFAULT);
}

CHECK(statx_fields)
{
    struct statx sx;
    create("f", "12345");
    OK(syscall(SYS_statx, AT_FDCWD, "f", 0, STATX_BASIC_STATS, &sx));
    EQ(sx.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    EQ(sx.stx_size, 5);
    EQ(sx.stx_mode, S_IFREG | 0644);
    EQ(sx.stx_ino, stat_of("f").st_ino);
    EQ(sx.stx_mtime.tv_sec, stat_of("f").st_mtime);
    int fd = OK(open("f", O_RDONLY));
    OK(syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_SIZE, &sx));
    EQ(sx.stx_size, 5);
    ERR(syscall(SYS_statx, fd, "", 0, STATX_SIZE, &sx), ENOENT);
    ERR(syscall(SYS_statx, AT_FDCWD, "f", 0, 1u << 31, &sx), EINVAL);
}

CHECK(fstatat_empty_path)
{
    struct stat st;
    create("f", "123");
    int fd = OK(open("f", O_RDONLY | O_PATH));
    OK(fstatat(fd, "", &st, AT_EMPTY_PATH));
    EQ(st.st_size, 3);
    char c;
    ERR(read(fd, &c, 1), EBADF);
}

CHECK(chmod_and_umask)
{
    create("f", "");
    OK(chmod("f", 04711));
    EQ(stat_of("f").st_mode, S_IFREG | 04711);
    int fd = OK(open("f", O_RDONLY));
    OK(fchmod(fd, 0600));
    EQ(stat_of("f").st_mode, S_IFREG | 0600);
    umask(027);
    close(OK(open("g", O_CREAT | O_WRONLY, 0666)));
    EQ(stat_of("g").st_mode, S_IFREG | 0640);
    EQ(umask(022), 027);
    OK(mkdir("d", 01777));
    EQ(stat_of("d").st_mode, S_IFDIR | 01755);
    OK(chown("f", 12, 34));
    EQ(stat_of("f").st_uid, 12);
    EQ(stat_of("f").st_gid, 34);
}

CHECK(access_modes)
{
    create("f", "");
    OK(access("f", R_OK | W_OK));
    ERR(access("f", X_OK), EACCES); // even for root: no execute bit at all
    OK(chmod("f", 0755));
    OK(access("f", X_OK));
    ERR(access("f", 1234), EINVAL);
    ERR(access("f/", F_OK), ENOTDIR);
    OK(faccessat(AT_FDCWD, "f", R_OK, AT_EACCESS));
}

CHECK(utimens)
{
    struct timespec t[2] = {{1000, 5}, {2000, 123456789}};
    create("f", "");
    OK(utimensat(AT_FDCWD, "f", t, 0));
    struct stat st = stat_of("f");
    EQ(st.st_atime, 1000);
    EQ(st.st_mtime, 2000);
    EQ(st.st_mtim.tv_nsec, 123456789);
    t[0].tv_nsec = UTIME_OMIT;
    t[1].tv_nsec = UTIME_NOW;
    OK(utimensat(AT_FDCWD, "f", t, 0));
    st = stat_of("f");
    EQ(st.st_atime, 1000);
    T(st.st_mtime > 1000000);
    t[0].tv_nsec = 1234567890;
    ERR(utimensat(AT_FDCWD, "f", t, 0), EINVAL);
    OK(symlink("f", "l"));
    t[0] = t[1] = (struct timespec){77, 0};
    OK(utimensat(AT_FDCWD, "l", t, AT_SYMLINK_NOFOLLOW));
    EQ(stat_of("l").st_mtime, 77);
    T(stat_of("f").st_mtime != 77);
}

CHECK(write_updates_mtime)
{
    struct timespec t[2] = {{1000, 0}, {1000, 0}};
    create("f", "");
    int fd = OK(open("f", O_WRONLY));
    OK(futimens(fd, t));
    EQ(stat_of("f").st_mtime, 1000);
    EQ(write(fd, "x", 1), 1);
    T(stat_of("f").st_mtime > 1000000);
}

CHECK(at_calls)
{
    OK(mkdir("d", 0755));
    int d = OK(open("d", O_RDONLY | O_DIRECTORY));
    close(OK(openat(d, "f", O_CREAT | O_WRONLY, 0644)));
    EQ(stat_of("d/f").st_size, 0);
    OK(mkdirat(d, "sub", 0755));
    OK(symlinkat("f", d, "l"));
    OK(linkat(d, "f", AT_FDCWD, "out", 0));
    OK(renameat(d, "f", d, "g"));
    OK(fchmodat(d, "g", 0600, 0));
    EQ(stat_of("d/g").st_mode & 0777, 0600);
    char buf[8];
    EQ(readlinkat(d, "l", buf, 8), 1);
    OK(unlinkat(d, "sub", AT_REMOVEDIR));
    ERR(unlinkat(d, "g", AT_REMOVEDIR), ENOTDIR);
    OK(unlinkat(d, "g", 0));
    ERR(openat(99, "x", O_RDONLY), EBADF);
    ERR(openat(OK(open("out", O_RDONLY)), "x", O_RDONLY), ENOTDIR);
    close(OK(openat(99, "/dev/null", O_RDONLY))); // an absolute path does not look at the descriptor
    struct { uint64_t flags, mode, resolve; } how = {O_RDONLY, 0, 8}; // RESOLVE_BENEATH
    ERR(syscall(437, d, "../out", &how, sizeof how), EXDEV);
}

CHECK(current_folder)
{
    char a[256], b[256];
    T(getcwd(a, sizeof a) != 0);
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    T(getcwd(b, sizeof b) != 0);
    T(!strncmp(a, b, strlen(a)) && !strcmp(b + strlen(a), "/d"));
    ERR(syscall(SYS_getcwd, b, 3), ERANGE);
    int fd = OK(open("..", O_RDONLY));
    OK(fchdir(fd));
    T(getcwd(b, sizeof b) != 0);
    T(!strcmp(a, b));
    ERR(chdir("absent"), ENOENT);
    create("f", "");
    ERR(chdir("f"), ENOTDIR);
    EQ(stat_of("d/../d/./..").st_ino, stat_of(".").st_ino);
    EQ(stat_of("/..").st_ino, stat_of("/").st_ino);
}

CHECK(removed_current_folder)
{
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(rmdir("../d"));
    char b[256];
    ERR(syscall(SYS_getcwd, b, sizeof b), ENOENT);
    ERR(open("x", O_CREAT | O_WRONLY, 0600), ENOENT);
}

CHECK(fifo_and_mknod)
{
    OK(mkfifo("p", 0600));
    T(S_ISFIFO(stat_of("p").st_mode));
    ERR(open("p", O_WRONLY | O_NONBLOCK), ENXIO);
    pid_t c = CHILD(int w = OK(open("p", O_WRONLY)); EQ(write(w, "fifo", 4), 4));
    int fd = OK(open("p", O_RDONLY));
    char buf[8] = {0};
    EQ(read(fd, buf, 8), 4);
    EQ(read(fd, buf, 8), 0);
    EXITS(c, 0);
    OK(mknod("node", S_IFREG | 0600, 0));
    EQ(stat_of("node").st_mode, S_IFREG | 0600);
}

CHECK(statfs_of_the_tree)
{
    struct statfs s;
    struct statvfs v;
    OK(statfs(".", &s));
    T(s.f_bsize > 0 && s.f_namelen >= 255);
    OK(statvfs("/proc", &v));
    OK(statfs("/proc", &s));
    EQ(s.f_type, 0x9fa0);
    ERR(statfs("absent", &s), ENOENT);
}

CHECK(trailing_slash)
{
    create("f", "");
    ERR(open("f/", O_RDONLY), ENOTDIR);
    ERR(open("new/", O_CREAT | O_WRONLY, 0600), EISDIR);
    OK(mkdir("d", 0755));
    struct stat st;
    OK(stat("d/", &st));
    OK(stat("d//.//", &st));
    ERR(unlink("f/"), ENOTDIR);
}

CHECK(inotify_events)
{
    int fd = OK(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    char buf[4096] __attribute__((aligned(8)));
    OK(mkdir("d", 0755));
    int wd = OK(inotify_add_watch(fd, "d", IN_CREATE | IN_DELETE | IN_MOVE | IN_CLOSE_WRITE | IN_MODIFY));
    ERR(read(fd, buf, sizeof buf), EAGAIN);
    create("d/f", "x");
    OK(rename("d/f", "d/g"));
    OK(unlink("d/g"));
    struct pollfd p = {fd, POLLIN, 0};
    EQ(poll(&p, 1, 1000), 1);
    ssize_t n = OK(read(fd, buf, sizeof buf));
    uint32_t seen[16], cookies[16];
    int k = 0;
    for (char *e = buf; e < buf + n && k < 16; k++) {
        struct inotify_event *ev = (void *)e;
        EQ(ev->wd, wd);
        seen[k] = ev->mask;
        cookies[k] = ev->cookie;
        if (ev->mask == IN_CREATE) T(!strcmp(ev->name, "f"));
        e += sizeof *ev + ev->len;
    }
    EQ(k, 6);
    uint32_t want[6] = {IN_CREATE, IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE};
    for (int i = 0; i < 6; i++) EQ(seen[i], want[i]);
    T(cookies[3] != 0 && cookies[3] == cookies[4]);
    OK(inotify_rm_watch(fd, wd));
    ERR(inotify_rm_watch(fd, wd), EINVAL);
    ERR(inotify_add_watch(fd, "absent", IN_CREATE), ENOENT);
}

CHECK(many_files_in_a_folder)
{
    char name[32];
    OK(mkdir("d", 0755));
    for (int i = 0; i < 2000; i++) {
        snprintf(name, sizeof name, "d/%d", i);
        close(OK(open(name, O_CREAT | O_WRONLY, 0600)));
    }
    for (int i = 1999; i >= 0; i--) {
        snprintf(name, sizeof name, "d/%d", i);
        OK(unlink(name));
    }
    OK(rmdir("d"));
}
