// Processes: fork, vfork, exec, posix_spawn, waiting, groups, sessions, clone3, pidfd.
#include "conf.h"
#include <linux/sched.h>
#include <spawn.h>
#include <sys/prctl.h>

extern char **environ;

// What this program does when a check executes it: `--exec MODE ARGS...`
static int executed(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[2] : "";
    if (!strcmp(mode, "exit")) return atoi(argv[3]);
    if (!strcmp(mode, "env")) return getenv("CONF_VALUE") ? atoi(getenv("CONF_VALUE")) : 200;
    if (!strcmp(mode, "args")) return argc;
    if (!strcmp(mode, "arglen")) return strlen(argv[3]) == 100000 && argv[3][99999] == 'a' ? 0 : 1;
    if (!strcmp(mode, "fd")) return fcntl(atoi(argv[3]), F_GETFD) == -1 ? 10 : 20;
    if (!strcmp(mode, "pid")) return getpid() == atoi(argv[3]) ? 0 : 1;
    if (!strcmp(mode, "cat")) {
        char c;
        while (read(0, &c, 1) == 1)
            if (write(1, &c, 1) != 1) return 1;
        return 0;
    }
    if (!strcmp(mode, "signals")) {
        struct sigaction sa;
        sigset_t mask;
        int r = 0;
        sigaction(SIGUSR1, 0, &sa);
        r |= sa.sa_handler == SIG_DFL ? 1 : 0;
        sigaction(SIGUSR2, 0, &sa);
        r |= sa.sa_handler == SIG_IGN ? 2 : 0;
        sigprocmask(SIG_BLOCK, 0, &mask);
        return r | (sigismember(&mask, SIGTERM) ? 4 : 0);
    }
    return 99;
}
__attribute__((constructor)) static void set_child(void) { conf_child = executed; }
#define RUN(...) execl(conf_self, "conf", "--exec", __VA_ARGS__, (char *)0)

CHECK(exit_codes)
{
    EXITS(CHILD(_exit(0)), 0);
    EXITS(CHILD(_exit(255)), 255);
    EXITS(CHILD(_exit(256 + 7)), 7);
    EXITS(CHILD(exit(3)), 3);
}

CHECK(wait_for_any_and_none)
{
    int st;
    pid_t a = CHILD(_exit(1)), b = CHILD(_exit(2));
    int sum = 0;
    for (int i = 0; i < 2; i++) {
        pid_t p = OK(wait(&st));
        T(p == a || p == b);
        sum += WEXITSTATUS(st);
    }
    EQ(sum, 3);
    ERR(wait(&st), ECHILD);
    ERR(waitpid(a, &st, 0), ECHILD);
    ERR(waitpid(1, &st, 0), ECHILD);
}

CHECK(wnohang)
{
    int p[2], st;
    char c;
    OK(pipe(p));
    pid_t k = CHILD(if (read(p[0], &c, 1)) {} _exit(4));
    EQ(waitpid(k, &st, WNOHANG), 0);
    EQ(write(p[1], "x", 1), 1);
    EXITS(k, 4);
}

CHECK(waitid_fields)
{
    siginfo_t si;
    pid_t k = CHILD(_exit(9));
    OK(waitid(P_PID, k, &si, WEXITED | WNOWAIT));
    EQ(si.si_pid, k);
    EQ(si.si_code, CLD_EXITED);
    EQ(si.si_status, 9);
    EQ(si.si_signo, SIGCHLD);
    EXITS(k, 9); // WNOWAIT left it
    k = CHILD(for (;;) pause());
    OK(kill(k, SIGTERM));
    OK(waitid(P_ALL, 0, &si, WEXITED));
    EQ(si.si_code, CLD_KILLED);
    EQ(si.si_status, SIGTERM);
    ERR(waitid(P_PID, k, &si, WEXITED), ECHILD);
    ERR(waitid(P_PID, k, &si, 0), EINVAL);
}

CHECK(wait4_rusage)
{
    struct rusage ru;
    pid_t k = CHILD(for (int64_t t0 = now_ns(); now_ns() - t0 < 60000000;) {});
    memset(&ru, 0xff, sizeof ru);
    EQ(wait4(k, 0, 0, &ru), k);
    long us = (ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000 + ru.ru_utime.tv_usec + ru.ru_stime.tv_usec;
    T(us > 5000 && us < 60000000);
}

CHECK(zombie_until_reaped)
{
    pid_t k = CHILD(_exit(0));
    sleep_ms(20);
    OK(kill(k, 0)); // still there
    EXITS(k, 0);
    ERR(kill(k, 0), ESRCH);
}

CHECK(orphan_is_adopted)
{
    int p[2];
    pid_t reported = 0;
    OK(pipe(p));
    EXITS(CHILD({
        pid_t parent = getpid();
        CHILD({
            for (int i = 0; i < 5000 && getppid() == parent; i++) sleep_ms(1);
            pid_t now = getppid();
            T(now != parent);
            EQ(write(p[1], &now, sizeof now), sizeof now);
        });
    }), 0);
    EQ(read(p[0], &reported, sizeof reported), sizeof reported);
    T(reported != getpid() && reported > 0);
}

CHECK(subreaper)
{
    OK(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int p[2];
    pid_t grandchild;
    OK(pipe(p));
    EXITS(CHILD({
        pid_t g = CHILD(sleep_ms(30); _exit(6));
        EQ(write(p[1], &g, sizeof g), sizeof g);
    }), 0);
    EQ(read(p[0], &grandchild, sizeof grandchild), sizeof grandchild);
    EXITS(grandchild, 6);
}

CHECK(death_signal)
{
    int p[2];
    char c;
    OK(pipe(p));
    EXITS(CHILD({
        CHILD({
            OK(prctl(PR_SET_PDEATHSIG, SIGKILL));
            EQ(write(p[1], "r", 1), 1);
            for (;;) pause();
        });
        EQ(read(p[0], &c, 1), 1);
    }), 0);
    close(p[1]);
    EQ(read(p[0], &c, 1), 0); // the last writer is dead
}

CHECK(fork_shares_files_not_memory)
{
    int fd = OK(open("f", O_RDWR | O_CREAT, 0600));
    static int value = 1;
    EQ(write(fd, "abc", 3), 3);
    EXITS(CHILD(value = 2; OK(lseek(fd, 1, SEEK_SET)); close(fd); OK(chdir("/"))), 0);
    EQ(value, 1);
    EQ(lseek(fd, 0, SEEK_CUR), 1);
    OK(access("f", F_OK)); // the parent's current folder did not change
}

CHECK(fork_many)
{
    pid_t k[60];
    for (int i = 0; i < 60; i++) k[i] = CHILD(_exit(i));
    for (int i = 59; i >= 0; i--) EXITS(k[i], i);
}

CHECK(vfork_suspends_the_parent)
{
    static volatile int shared;
    int64_t t0 = now_ns();
    pid_t k = vfork();
    if (k == 0) {
        shared = 5;
        struct timespec ts = {0, 40000000};
        syscall(SYS_nanosleep, &ts, 0);
        _exit(3);
    }
    T(k > 0);
    T(now_ns() - t0 >= 39000000);
    EQ(shared, 5); // the same memory
    EXITS(k, 3);
}

CHECK(vfork_exec)
{
    pid_t k = vfork();
    if (k == 0) {
        RUN("exit", "12");
        _exit(99);
    }
    EXITS(k, 12);
}

CHECK(exec_arguments_and_environment)
{
    EXITS(CHILD(RUN("exit", "33"); _exit(98)), 33);
    EXITS(CHILD(RUN("args", "", "b", "c d"); _exit(98)), 6);
    char *env[] = {"CONF_VALUE=77", 0}, *argv[] = {"conf", "--exec", "env", 0};
    EXITS(CHILD(execve(conf_self, argv, env); _exit(98)), 77);
    char *none[] = {0};
    EXITS(CHILD(execve(conf_self, argv, none); _exit(98)), 200);
}

CHECK(exec_long_arguments)
{
    char *big = malloc(100001);
    memset(big, 'a', 100000);
    big[100000] = 0;
    EXITS(CHILD(RUN("arglen", big); _exit(98)), 0);
    big = malloc(140001); // one string may have 32 pages
    memset(big, 'a', 140000);
    big[140000] = 0;
    ERR(RUN("arglen", big), E2BIG);
}

CHECK(exec_keeps_the_pid)
{
    EXITS(CHILD(char pid[16]; snprintf(pid, 16, "%d", getpid()); RUN("pid", pid); _exit(98)), 0);
}

CHECK(exec_closes_cloexec)
{
    int a = OK(open("/dev/null", O_RDONLY)), b = OK(open("/dev/null", O_RDONLY | O_CLOEXEC));
    char sa[16], sb[16];
    snprintf(sa, 16, "%d", a);
    snprintf(sb, 16, "%d", b);
    EXITS(CHILD(RUN("fd", sa); _exit(98)), 20);
    EXITS(CHILD(RUN("fd", sb); _exit(98)), 10);
}

static void nothing(int sig) { (void)sig; }
CHECK(exec_resets_handlers_keeps_ignored_and_mask)
{
    EXITS(CHILD({
        sigset_t s;
        signal(SIGUSR1, nothing);
        signal(SIGUSR2, SIG_IGN);
        sigemptyset(&s);
        sigaddset(&s, SIGTERM);
        sigprocmask(SIG_BLOCK, &s, 0);
        RUN("signals");
        _exit(98);
    }), 7);
}

static void *exec_from_thread(void *arg)
{
    (void)arg;
    RUN("exit", "21");
    _exit(98);
}
static void *forever(void *arg)
{
    for (;;) pause();
    return arg;
}
CHECK(exec_from_a_thread)
{
    EXITS(CHILD({
        pthread_t t;
        for (int i = 0; i < 3; i++) pthread_create(&t, 0, forever, 0);
        pthread_create(&t, 0, exec_from_thread, 0);
        for (;;) pause();
    }), 21);
}

CHECK(script_with_interpreter)
{
    int fd = OK(open("script", O_WRONLY | O_CREAT, 0755));
    char line[512];
    int n = snprintf(line, sizeof line, "#!%s --exec\n", conf_self);
    EQ(write(fd, line, n), n);
    close(fd);
    // argv becomes: interpreter, its one argument, the script, our arguments
    EXITS(CHILD(execl("./script", "x", "exit", (char *)0); _exit(98)), 99);
    fd = OK(open("broken", O_WRONLY | O_CREAT, 0755));
    EQ(write(fd, "#!/no/such/interpreter\n", 23), 23);
    close(fd);
    ERR(execl("./broken", "x", (char *)0), ENOENT);
}

CHECK(execveat_and_fexecve)
{
    int fd = OK(open(conf_self, O_RDONLY | O_CLOEXEC));
    char *argv[] = {"conf", "--exec", "exit", "14", 0};
    EXITS(CHILD(syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH); _exit(98)), 14);
    EXITS(CHILD(fexecve(fd, argv, environ); _exit(98)), 14);
}

CHECK(spawn_with_file_actions)
{
    int in[2], out[2];
    pid_t k;
    OK(pipe2(in, O_CLOEXEC));
    OK(pipe2(out, O_CLOEXEC));
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, in[0], 0);
    posix_spawn_file_actions_adddup2(&fa, out[1], 1);
    char *argv[] = {"conf", "--exec", "cat", 0};
    EQ(posix_spawn(&k, conf_self, &fa, 0, argv, environ), 0);
    close(in[0]);
    close(out[1]);
    EQ(write(in[1], "spawned", 7), 7);
    close(in[1]);
    char buf[16] = {0};
    size_t at = 0;
    for (ssize_t n; (n = read(out[0], buf + at, sizeof buf - at)) > 0;) at += n;
    EQ(at, 7);
    T(!strcmp(buf, "spawned"));
    EXITS(k, 0);
    EQ(posix_spawn(&k, "/no/such", 0, 0, argv, environ), ENOENT);
}

CHECK(system_and_popen)
{
    if (access("/bin/sh", X_OK)) conf_skip("no /bin/sh here");
    int st = system("exit 5");
    EQ(WEXITSTATUS(st), 5);
    FILE *f = popen("echo one; echo two", "r");
    T(f != 0);
    char line[16];
    T(fgets(line, 16, f) && !strcmp(line, "one\n"));
    T(fgets(line, 16, f) && !strcmp(line, "two\n"));
    EQ(pclose(f), 0);
}

CHECK(process_groups)
{
    int p[2];
    char c;
    OK(pipe(p));
    pid_t k = CHILD(OK(setpgid(0, 0)); EQ(getpgrp(), getpid()); EQ(write(p[1], "x", 1), 1); for (;;) pause());
    EQ(read(p[0], &c, 1), 1);
    EQ(getpgid(k), k);
    pid_t m = CHILD(for (;;) pause());
    OK(setpgid(m, k));
    EQ(getpgid(m), k);
    OK(kill(-k, SIGTERM));
    DIES(k, SIGTERM);
    DIES(m, SIGTERM);
    ERR(kill(-k, 0), ESRCH);
    ERR(getpgid(3999999), ESRCH);
    ERR(setpgid(0, -1), EINVAL);
}

CHECK(wait_for_a_group)
{
    pid_t a = CHILD(sleep_ms(10); _exit(1));
    pid_t b = CHILD(setpgid(0, 0); sleep_ms(30); _exit(2));
    setpgid(b, b);
    int st;
    EQ(waitpid(-b, &st, 0), b);
    EQ(WEXITSTATUS(st), 2);
    EQ(waitpid(0, &st, 0), a);
}

CHECK(sessions)
{
    EXITS(CHILD({
        pid_t s = OK(setsid());
        EQ(s, getpid());
        EQ(getsid(0), s);
        EQ(getpgrp(), s);
        ERR(setsid(), EPERM);
        ERR(open("/dev/tty", O_RDWR), ENXIO);
    }), 0);
}

CHECK(clone3_and_pidfd)
{
    int pidfd = -1;
    struct clone_args a = {.flags = CLONE_PIDFD, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD};
    pid_t k = OK(syscall(435, &a, sizeof a));
    if (k == 0) {
        sleep_ms(30);
        _exit(17);
    }
    T(pidfd >= 0);
    struct pollfd p = {pidfd, POLLIN, 0};
    EQ(poll(&p, 1, 0), 0);
    EQ(poll(&p, 1, 5000), 1);
    siginfo_t si;
    OK(waitid(3 /* P_PIDFD */, pidfd, &si, WEXITED));
    EQ(si.si_pid, k);
    EQ(si.si_status, 17);
    ERR(syscall(435, &a, 8), EINVAL);
}

CHECK(pidfd_open_and_signal)
{
    pid_t k = CHILD(for (;;) pause());
    int fd = OK(syscall(434, k, 0));
    EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    OK(syscall(424, fd, SIGKILL, 0, 0));
    DIES(k, SIGKILL);
    ERR(syscall(424, fd, 0, 0, 0), ESRCH);
    ERR(syscall(434, 3999999, 0), ESRCH);
}

CHECK(parent_and_own_ids)
{
    pid_t me = getpid();
    EXITS(CHILD(EQ(getppid(), me); T(getpid() != me); EQ(syscall(SYS_gettid), getpid())), 0);
}

CHECK(shared_descriptor_table)
{
    // clone(CLONE_FILES) shares the table itself; unshare gives an own one
    struct clone_args a = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
    pid_t k = OK(syscall(435, &a, sizeof a));
    if (k == 0) {
        int fd = open("/dev/null", O_RDONLY);
        _exit(dup2(fd, 70) == 70 ? 0 : 1);
    }
    EXITS(k, 0);
    EQ(fcntl(70, F_GETFD), 0);
    k = OK(syscall(435, &a, sizeof a));
    if (k == 0) {
        OK(unshare(CLONE_FILES));
        close(70);
        _exit(0);
    }
    EXITS(k, 0);
    EQ(fcntl(70, F_GETFD), 0);
}
