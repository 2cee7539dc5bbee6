// Runs every conformance program that is named on the command line, one after the other, each within a time limit,
// and frames their output: `=== NAME`, the program's lines, `=== end STATUS MILLISECONDS`.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void say(const char *line)
{
    if (write(1, line, strlen(line)) < 0) _exit(1);
}

int main(int argc, char **argv)
{
    char line[512];
    long limit = argc > 1 ? atol(argv[1]) * 1000 : 0;
    if (limit <= 0) {
        say("usage: runall SECONDS PROGRAM...\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        const char *name = strrchr(argv[i], '/') ? strrchr(argv[i], '/') + 1 : argv[i];
        snprintf(line, sizeof line, "=== %s\n", name);
        say(line);
        long t0 = ms();
        pid_t p = fork();
        if (p == 0) {
            setpgid(0, 0);
            execl(argv[i], argv[i], (char *)0);
            perror(argv[i]);
            _exit(127);
        }
        int st = -1, ended = p < 0;
        const struct timespec nap = {0, 5000000};
        while (!ended && ms() - t0 < limit) {
            ended = waitpid(p, &st, WNOHANG) == p;
            if (!ended) nanosleep(&nap, 0);
        }
        if (p > 0) kill(-p, SIGKILL);
        if (!ended) {
            kill(p, SIGKILL);
            waitpid(p, &st, 0);
            say("not ok program: no end within the time limit\n");
        }
        snprintf(line, sizeof line, "=== end %d %ld\n", WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st), ms() - t0);
        say(line);
    }
    say("=== done\n");
    return 0;
}
