// /proc and /sys as programs read them, and the character devices.
#include "conf.h"
#include <dirent.h>

static char text[1 << 16];
static char *slurp(const char *path)
{
    int fd = OK(open(path, O_RDONLY));
    size_t at = 0;
    for (ssize_t n; at < sizeof text - 1 && (n = OK(read(fd, text + at, sizeof text - 1 - at))) > 0;) at += n;
    text[at] = 0;
    close(fd);
    return text;
}
// The number after `key` in a file of `key: number` lines.
static long field(const char *path, const char *key)
{
    char *s = slurp(path), *at = s;
    size_t n = strlen(key);
    for (; at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : 0)
        if (!strncmp(at, key, n) && (at[n] == ':' || at[n] == '\t' || at[n] == ' ')) return strtol(at + n + 1 + strspn(at + n + 1, ": \t"), 0, 10);
    FAIL("no %s in %s", key, path);
}

CHECK(maps_lists_this_program)
{
    char *p = MAP(mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(mprotect(p + PAGE, PAGE, PROT_READ));
    unsigned long last = 0, code = (unsigned long)field, stack = (unsigned long)&p;
    int in_code = 0, in_stack = 0, ro = 0, named = 0;
    for (char *l = strtok(slurp("/proc/self/maps"), "\n"); l; l = strtok(0, "\n")) {
        unsigned long a, b, off, ino;
        char perm[5], path[256] = "";
        unsigned maj, min;
        int n = sscanf(l, "%lx-%lx %4s %lx %x:%x %lu %255s", &a, &b, perm, &off, &maj, &min, &ino, path);
        T(n >= 7);
        T(a < b && a >= last);
        last = b;
        if (code >= a && code < b) in_code = perm[2] == 'x' && perm[1] == '-', named = strstr(path, "procfs") != 0;
        if (stack >= a && stack < b) in_stack = !strcmp(path, "[stack]");
        if ((unsigned long)p + PAGE == a && b == a + PAGE) ro = !strcmp(perm, "r--p");
    }
    EQ(in_code, 1);
    EQ(named, 1);
    EQ(in_stack, 1);
    EQ(ro, 1);
}

CHECK(status_fields)
{
    EQ(field("/proc/self/status", "Pid"), getpid());
    EQ(field("/proc/self/status", "PPid"), getppid());
    EQ(field("/proc/self/status", "Threads"), 1);
    EQ(field("/proc/self/status", "Uid"), getuid());
    T(field("/proc/self/status", "VmRSS") > 0);
    T(field("/proc/self/status", "VmSize") > 0);
    T(!strncmp(slurp("/proc/self/status"), "Name:\tprocfs", 12));
}

CHECK(exe_link)
{
    char path[512] = "", real[PATH_MAX];
    OK(readlink("/proc/self/exe", path, sizeof path - 1));
    T(realpath(conf_self, real) != 0);
    T(!strcmp(path, real));
    int fd = OK(open("/proc/self/exe", O_RDONLY));
    char magic[4];
    EQ(read(fd, magic, 4), 4);
    T(!memcmp(magic, "\177ELF", 4));
}

CHECK(fd_folder)
{
    int fd = OK(open("named-file", O_CREAT | O_RDWR, 0600)), p[2];
    OK(pipe(p));
    EQ(dup2(fd, 55), 55);
    DIR *d = opendir("/proc/self/fd");
    T(d != 0);
    int seen = 0;
    for (struct dirent *e; (e = readdir(d));) seen |= atoi(e->d_name) == 55;
    EQ(seen, 1);
    char link[512] = "", cwd[256], want[512];
    OK(readlink("/proc/self/fd/55", link, sizeof link - 1));
    T(getcwd(cwd, sizeof cwd) != 0);
    snprintf(want, sizeof want, "%s/named-file", cwd);
    T(!strcmp(link, want));
    char path[64];
    memset(link, 0, sizeof link);
    snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
    OK(readlink(path, link, sizeof link - 1));
    T(!strncmp(link, "pipe:[", 6));
    EQ(write(55, "again", 5), 5);
    int again = OK(open("/proc/self/fd/55", O_RDONLY)); // a new open file
    char b[8];
    EQ(read(again, b, 8), 5);
    ERR(open("/proc/self/fd/999", O_RDONLY), ENOENT);
}

CHECK(cmdline_and_comm)
{
    int fd = OK(open("/proc/self/cmdline", O_RDONLY));
    char b[512] = "";
    ssize_t n = OK(read(fd, b, sizeof b - 1));
    T(n > 0 && b[n - 1] == 0);
    T(!strcmp(b, conf_self));
    T(!strncmp(slurp("/proc/self/comm"), "procfs", 6));
    fd = OK(open("/proc/self/comm", O_WRONLY));
    EQ(write(fd, "renamed", 7), 7);
    T(!strcmp(slurp("/proc/self/comm"), "renamed\n"));
}

CHECK(stat_fields)
{
    int pid = 0, ppid = 0, pgrp = 0;
    char comm[64], state = 0;
    EQ(sscanf(slurp("/proc/self/stat"), "%d (%63[^)]) %c %d %d", &pid, comm, &state, &ppid, &pgrp), 5);
    EQ(pid, getpid());
    EQ(ppid, getppid());
    EQ(pgrp, getpgrp());
    EQ(state, 'R');
    int fields = 1;
    for (char *s = strchr(text, ')'); *s; s++) fields += *s == ' ';
    T(fields >= 40);
    pid_t k = CHILD(_exit(0));
    sleep_ms(20);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", k);
    EQ(strrchr(slurp(path), ')')[2], 'Z');
    EXITS(k, 0);
    ERR(open(path, O_RDONLY), ENOENT);
}

CHECK(statm_and_smaps)
{
    long size = 0, rss = 0;
    EQ(sscanf(slurp("/proc/self/statm"), "%ld %ld", &size, &rss), 2);
    T(size >= rss && size > 0);
    T(access("/proc/self/smaps", R_OK) == 0);
}

CHECK(task_folder)
{
    DIR *d = opendir("/proc/self/task");
    T(d != 0);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    EQ(n, 1);
}

CHECK(cwd_and_root_links)
{
    char cwd[256], link[256] = "";
    T(getcwd(cwd, sizeof cwd) != 0);
    OK(readlink("/proc/self/cwd", link, 255));
    T(!strcmp(cwd, link));
    memset(link, 0, sizeof link);
    OK(readlink("/proc/self/root", link, 255));
    T(!strcmp(link, "/"));
    memset(link, 0, sizeof link);
    OK(readlink("/proc/self", link, 255));
    EQ(atoi(link), getpid());
}

CHECK(proc_lists_processes)
{
    DIR *d = opendir("/proc");
    T(d != 0);
    int me = 0, meminfo = 0;
    for (struct dirent *e; (e = readdir(d));) {
        me |= atoi(e->d_name) == getpid();
        meminfo |= !strcmp(e->d_name, "meminfo");
    }
    EQ(me, 1);
    EQ(meminfo, 1);
}

CHECK(meminfo)
{
    long total = field("/proc/meminfo", "MemTotal"), left = field("/proc/meminfo", "MemFree");
    T(total > 0 && left > 0 && left <= total);
    T(field("/proc/meminfo", "MemAvailable") <= total);
    T(field("/proc/meminfo", "Cached") >= 0);
    T(field("/proc/meminfo", "SwapTotal") >= 0);
}

CHECK(cpuinfo)
{
    int n = 0;
    for (char *l = strtok(slurp("/proc/cpuinfo"), "\n"); l; l = strtok(0, "\n")) n += !strncmp(l, "processor", 9);
    EQ(n, sysconf(_SC_NPROCESSORS_CONF));
    T(strstr(slurp("/proc/cpuinfo"), "flags") != 0);
    T(strstr(slurp("/proc/cpuinfo"), "model name") != 0);
}

CHECK(system_wide_files)
{
    double a, b;
    EQ(sscanf(slurp("/proc/uptime"), "%lf %lf", &a, &b), 2);
    T(a > 0);
    EQ(sscanf(slurp("/proc/loadavg"), "%lf %lf", &a, &b), 2);
    T(!strncmp(slurp("/proc/stat"), "cpu ", 4));
    T(strstr(text, "btime ") != 0);
    T(!strncmp(slurp("/proc/version"), "Linux version ", 14));
    T(strstr(slurp("/proc/filesystems"), "tmpfs") != 0);
    T(strstr(slurp("/proc/mounts"), "/proc ") != 0);
    T(strstr(slurp("/proc/self/mountinfo"), " /proc ") != 0);
}

CHECK(sysctls)
{
    T(atol(slurp("/proc/sys/kernel/pid_max")) >= 4096);
    T(atol(slurp("/proc/sys/net/core/somaxconn")) >= 128);
    T(atol(slurp("/proc/sys/vm/overcommit_memory")) >= 0);
    T(atol(slurp("/proc/sys/fs/file-max")) > 0);
    T(strlen(slurp("/proc/sys/kernel/hostname")) > 1);
    T(!strcmp(slurp("/proc/sys/kernel/ostype"), "Linux\n"));
    EQ(strlen(slurp("/proc/sys/kernel/random/uuid")), 37);
}

CHECK(sys_cpus)
{
    T(slurp("/sys/devices/system/cpu/online")[0] == '0');
    T(slurp("/sys/devices/system/cpu/possible")[0] == '0');
}

CHECK(dev_null_zero_full)
{
    char b[100];
    int fd = OK(open("/dev/null", O_RDWR));
    EQ(write(fd, b, 100), 100);
    EQ(read(fd, b, 100), 0);
    fd = OK(open("/dev/zero", O_RDWR));
    memset(b, 1, 100);
    EQ(read(fd, b, 100), 100);
    for (int i = 0; i < 100; i++) EQ(b[i], 0);
    EQ(write(fd, b, 100), 100);
    char *p = MAP(mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
    EQ(p[PAGE], 0);
    p[PAGE] = 1;
    fd = OK(open("/dev/full", O_RDWR));
    EQ(read(fd, b, 10), 10);
    ERR(write(fd, b, 1), ENOSPC);
}

CHECK(dev_random)
{
    unsigned char a[32] = {0}, b[32] = {0};
    int fd = OK(open("/dev/urandom", O_RDONLY));
    EQ(read(fd, a, 32), 32);
    EQ(read(fd, b, 32), 32);
    T(memcmp(a, b, 32) != 0);
    fd = OK(open("/dev/random", O_RDONLY));
    T(read(fd, a, 32) > 0);
}

CHECK(dev_links_and_shm)
{
    char link[64] = "";
    OK(readlink("/dev/fd", link, 63));
    T(!strcmp(link, "/proc/self/fd"));
    struct stat st;
    OK(lstat("/dev/stdin", &st));
    int fd = OK(open("/dev/shm/conf-procfs", O_CREAT | O_RDWR, 0600));
    OK(unlink("/dev/shm/conf-procfs"));
    EQ(write(fd, "x", 1), 1);
}
