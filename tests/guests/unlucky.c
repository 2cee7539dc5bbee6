// On an unlucky machine: unlucky alone | clock | nics PORT ADDRESS... | disk FILE BADPAGE | wait.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(x) do { if (!(x)) { printf("line %d: %s (errno %d: %s)\n", __LINE__, #x, errno, strerror(errno)); exit(1); } } while (0)
#define FAILS(x, e) do { errno = 0; CHECK((x) == -1 && errno == (e)); } while (0)

static struct sockaddr_in address(const char *ip, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    CHECK(inet_pton(AF_INET, ip, &a.sin_addr) == 1);
    return a;
}

// Prints the interfaces with their addresses; returns how many there are beside the loopback.
static int interfaces(void) {
    int n = 0;
    DIR *d = opendir("/sys/class/net");
    CHECK(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        CHECK(if_nametoindex(e->d_name) > 0);
        n += strcmp(e->d_name, "lo") != 0;
    }
    closedir(d);
    struct ifaddrs *all, *i;
    CHECK(getifaddrs(&all) == 0);
    for (i = all; i; i = i->ifa_next) {
        char text[64];
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET) continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)i->ifa_addr)->sin_addr, text, sizeof text);
        printf("interface %s has %s\n", i->ifa_name, text);
    }
    freeifaddrs(all);
    return n;
}

// A server and its client in one, over the loopback.
static void loopback(void) {
    struct sockaddr_in a = address("0.0.0.0", 7777);
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(listener >= 0 && client >= 0 && bind(listener, (void *)&a, sizeof a) == 0 && listen(listener, 5) == 0);
    a = address("127.0.0.1", 7777);
    CHECK(connect(client, (void *)&a, sizeof a) == 0);
    int server = accept(listener, NULL, NULL);
    char got[6] = "";
    CHECK(server >= 0 && write(client, "hello", 5) == 5 && read(server, got, 5) == 5 && strcmp(got, "hello") == 0);
    close(server);
    close(client);
    close(listener);
}

static void alone(void) {
    CHECK(interfaces() == 0);
    loopback();
    int s = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = address("10.0.2.2", 80);
    FAILS(connect(s, (void *)&a, sizeof a), ENETUNREACH);
    FAILS(sendto(u, "x", 1, 0, (void *)&a, sizeof a), ENETUNREACH);
    puts("alone: all right");
}

static double now(clockid_t clock) {
    struct timespec t;
    CHECK(clock_gettime(clock, &t) == 0);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// Time goes on, by read and by sleep, and the two agree.
static void clocks(void) {
    double last = now(CLOCK_MONOTONIC), start = last;
    for (int i = 0; i < 10000; i++) {
        double next = now(CLOCK_MONOTONIC);
        CHECK(next >= last);
        last = next;
    }
    CHECK(last > start);
    for (int i = 0; i < 10; i++) {
        struct timespec t = {0, 20000000};
        start = now(CLOCK_MONOTONIC);
        CHECK(nanosleep(&t, NULL) == 0);
        double took = now(CLOCK_MONOTONIC) - start;
        CHECK(took >= 0.02 && took < 5);
    }
    printf("clock: all right, date %.0f\n", now(CLOCK_REALTIME));
}

// Somebody at each ADDRESS sends a word.
static void nics(int port, char **addresses, int count) {
    printf("%d interfaces\n", interfaces());
    loopback();
    double end = now(CLOCK_MONOTONIC) + 60;
    for (int i = 0; i < count; i++) {
        struct sockaddr_in a = address(addresses[i], port);
        int s, status;
        // An address by DHCP may be on its way.
        do {
            s = socket(AF_INET, SOCK_STREAM, 0);
            CHECK(s >= 0);
            status = connect(s, (void *)&a, sizeof a);
            if (status) {
                close(s);
                usleep(20000);
            }
        } while (status && now(CLOCK_MONOTONIC) < end);
        CHECK(status == 0);
        char got[6] = "";
        CHECK(recv(s, got, 5, MSG_WAITALL) == 5 && strcmp(got, "hello") == 0);
        close(s);
    }
    printf("then %d interfaces\n", interfaces());
    puts("nics: all right");
}

// FILE's page BAD cannot be read; if it is negative, none can after something came from stdin: what has been read stays.
static void disk(const char *path, long bad) {
    static char page[4096], first[4096];
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && st.st_size >= 1 << 20);
    long pages = st.st_size / 4096;
    if (bad >= 0) {
        for (long i = 0; i < pages; i++) {
            if (i == bad) FAILS(pread(fd, page, 4096, i * 4096), EIO);
            else CHECK(pread(fd, page, 4096, i * 4096) == 4096);
        }
    } else {
        CHECK(pread(fd, first, 4096, 0) == 4096);
        puts("ready");
        fflush(stdout);
        CHECK(getchar() == 'g');
        CHECK(pread(fd, page, 4096, 0) == 4096 && memcmp(page, first, 4096) == 0);
        bad = pages - 1;
        FAILS(pread(fd, page, 4096, bad * 4096), EIO);
        FAILS(pread(fd, page, 4096, bad * 4096), EIO);
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        volatile char *at = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        CHECK(at != MAP_FAILED);
        _exit(at[bad * 4096]);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    // The kernel has its wits about it: what needs no disk works.
    int made = open("/tmp/unlucky", O_RDWR | O_CREAT, 0600);
    CHECK(made >= 0 && write(made, "abc", 3) == 3 && pread(made, page, 3, 0) == 3 && memcmp(page, "abc", 3) == 0);
    loopback();
    puts("disk: all right");
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "alone")) alone();
    else if (!strcmp(mode, "clock")) clocks();
    else if (!strcmp(mode, "nics") && argc > 2) nics(atoi(argv[2]), argv + 3, argc - 3);
    else if (!strcmp(mode, "disk") && argc == 4) disk(argv[2], atol(argv[3]));
    else if (!strcmp(mode, "wait")) {
        puts("ready");
        fflush(stdout);
        for (;;) pause();
    } else return 2;
    return 0;
}
