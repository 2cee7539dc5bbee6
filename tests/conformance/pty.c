// Pseudo-terminals: opening, modes, line editing, signals, window size, sessions.
#include "conf.h"
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;
static char slave_name[64];
static void open_pair(void)
{
    int unlock = 0;
    unsigned n;
    master = OK(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    OK(ioctl(master, TIOCSPTLCK, &unlock));
    OK(ioctl(master, TIOCGPTN, &n));
    snprintf(slave_name, sizeof slave_name, "/dev/pts/%u", n);
    slave = OK(open(slave_name, O_RDWR | O_NOCTTY));
}
static int readable(int fd, int ms)
{
    struct pollfd p = {fd, POLLIN, 0};
    return OK(poll(&p, 1, ms)) && p.revents & POLLIN;
}
// Everything that comes within the time, as a string.
static const char *drain(int fd)
{
    static char buf[1024];
    size_t at = 0;
    while (readable(fd, 50)) {
        ssize_t n = read(fd, buf + at, sizeof buf - 1 - at);
        if (n <= 0) break;
        at += n;
    }
    buf[at] = 0;
    return buf;
}
static void put(int fd, const char *s) { EQ(write(fd, s, strlen(s)), strlen(s)); }
#define SAME(a, b)                                                                               \
    do {                                                                                         \
        const char *a_ = (a);                                                                    \
        if (strcmp(a_, b)) FAIL("line %d: \"%s\", expected \"%s\"", __LINE__, a_, b);            \
    } while (0)

CHECK(open_and_isatty)
{
    open_pair();
    EQ(isatty(slave), 1);
    EQ(isatty(master), 1);
    T(!strcmp(ptsname(master), slave_name));
    struct stat st;
    OK(fstat(slave, &st));
    T(S_ISCHR(st.st_mode));
    char name[64];
    EQ(ttyname_r(slave, name, sizeof name), 0);
    T(!strcmp(name, slave_name));
}

CHECK(locked_until_unlocked)
{
    int m = OK(posix_openpt(O_RDWR | O_NOCTTY));
    ERR(open(ptsname(m), O_RDWR | O_NOCTTY), EIO);
    OK(grantpt(m));
    OK(unlockpt(m));
    OK(open(ptsname(m), O_RDWR | O_NOCTTY));
}

CHECK(default_modes)
{
    struct termios t;
    open_pair();
    OK(tcgetattr(slave, &t));
    EQ(t.c_lflag & (ICANON | ECHO | ISIG | IEXTEN), ICANON | ECHO | ISIG | IEXTEN);
    EQ(t.c_iflag & ICRNL, ICRNL);
    EQ(t.c_oflag & (OPOST | ONLCR), OPOST | ONLCR);
    EQ(t.c_cc[VINTR], 3);
    EQ(t.c_cc[VEOF], 4);
    EQ(t.c_cc[VERASE], 127);
}

CHECK(output_maps_newlines)
{
    open_pair();
    put(slave, "a\nb\n");
    SAME(drain(master), "a\r\nb\r\n");
}

CHECK(line_editing_and_echo)
{
    open_pair();
    put(master, "ab\177c");
    EQ(readable(slave, 30), 0); // no line yet
    put(master, "\r");
    SAME(drain(slave), "ac\n");
    SAME(drain(master), "ab\b \bc\r\n");
    put(master, "gone\025kept\n"); // ^U
    SAME(drain(slave), "kept\n");
}

CHECK(one_line_per_read)
{
    char b[64] = {0};
    open_pair();
    put(master, "one\ntwo\n");
    EQ(read(slave, b, 64), 4);
    EQ(read(slave, b, 2), 2);
    EQ(read(slave, b, 64), 2);
    EQ(b[1], '\n');
}

CHECK(end_of_file_character)
{
    char b[8];
    open_pair();
    put(master, "x\004");
    EQ(read(slave, b, 8), 1);
    put(master, "\004");
    EQ(read(slave, b, 8), 0);
}

CHECK(raw_mode)
{
    struct termios t;
    open_pair();
    OK(tcgetattr(slave, &t));
    cfmakeraw(&t);
    OK(tcsetattr(slave, TCSANOW, &t));
    put(master, "q\r\003");
    SAME(drain(slave), "q\r\003");
    SAME(drain(master), "");
    put(slave, "\n");
    SAME(drain(master), "\n");
}

CHECK(minimum_and_time)
{
    struct termios t;
    char b[8];
    open_pair();
    OK(tcgetattr(slave, &t));
    cfmakeraw(&t);
    t.c_cc[VMIN] = 0;
    t.c_cc[VTIME] = 1;
    OK(tcsetattr(slave, TCSANOW, &t));
    int64_t t0 = now_ns();
    EQ(read(slave, b, 8), 0);
    T(now_ns() - t0 >= 80000000);
    t.c_cc[VMIN] = 3;
    t.c_cc[VTIME] = 0;
    OK(tcsetattr(slave, TCSANOW, &t));
    pid_t k = CHILD(put(master, "a"); sleep_ms(20); put(master, "bc"));
    EQ(read(slave, b, 8), 3);
    EXITS(k, 0);
}

CHECK(window_size)
{
    struct winsize w = {33, 101, 0, 0}, got = {0};
    open_pair();
    OK(ioctl(master, TIOCSWINSZ, &w));
    OK(ioctl(slave, TIOCGWINSZ, &got));
    EQ(got.ws_row, 33);
    EQ(got.ws_col, 101);
}

CHECK(hangup)
{
    char b[8];
    open_pair();
    close(slave);
    ERR(read(master, b, 8), EIO);
    slave = OK(open(slave_name, O_RDWR | O_NOCTTY));
    close(master);
    EQ(read(slave, b, 8), 0);
    ERR(write(slave, "x", 1), EIO);
}

static volatile int got_signal;
static void note(int sig) { got_signal = sig; }
CHECK(controlling_terminal_and_interrupt)
{
    open_pair();
    int ready[2];
    char c;
    OK(pipe(ready));
    pid_t k = CHILD({
        signal(SIGINT, note);
        signal(SIGWINCH, note);
        OK(setsid());
        OK(ioctl(slave, TIOCSCTTY, 0));
        EQ(tcgetpgrp(slave), getpid());
        close(OK(open("/dev/tty", O_RDWR)));
        EQ(write(ready[1], "r", 1), 1);
        for (int i = 0; i < 5000 && !got_signal; i++) sleep_ms(1);
        EQ(got_signal, SIGINT);
        got_signal = 0;
        EQ(write(ready[1], "r", 1), 1);
        for (int i = 0; i < 5000 && !got_signal; i++) sleep_ms(1);
        EQ(got_signal, SIGWINCH);
    });
    EQ(read(ready[0], &c, 1), 1);
    put(master, "\003");
    EQ(read(ready[0], &c, 1), 1);
    struct winsize w = {10, 20, 0, 0};
    OK(ioctl(master, TIOCSWINSZ, &w));
    EXITS(k, 0);
}

CHECK(session_leader_hangs_up)
{
    open_pair();
    int ready[2];
    char c;
    OK(pipe(ready));
    pid_t k = CHILD({
        OK(setsid());
        OK(ioctl(slave, TIOCSCTTY, 0));
        close(master); // else this process would keep its own terminal alive
        EQ(write(ready[1], "r", 1), 1);
        alarm(20);
        for (;;) pause();
    });
    EQ(read(ready[0], &c, 1), 1);
    close(slave);
    close(master);
    DIES(k, SIGHUP);
}

CHECK(input_queue_size)
{
    int n = 0;
    open_pair();
    put(master, "12345\n");
    EQ(readable(slave, 1000), 1);
    OK(ioctl(slave, FIONREAD, &n));
    EQ(n, 6);
    OK(tcflush(slave, TCIFLUSH));
    EQ(readable(slave, 30), 0);
    OK(tcdrain(slave));
}
