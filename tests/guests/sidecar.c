// Runs a program and answers each connection at a port with the contents of /proc/meminfo and /proc/slabinfo: how the soak looks at the
// guest's memory without disturbing the program. Ends with the program's exit code.
//   sidecar PORT PROGRAM ARGS...
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    int l = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (l < 0 || bind(l, (void *)&a, sizeof a) || listen(l, 4)) {
        perror("sidecar: listen");
        return 1;
    }
    fcntl(l, F_SETFD, FD_CLOEXEC);
    pid_t p = fork();
    if (p == 0) {
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    for (int st;;) {
        if (waitpid(p, &st, WNOHANG) == p) return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
        struct pollfd f = {l, POLLIN, 0};
        if (poll(&f, 1, 200) < 1) continue;
        int c = accept(l, 0, 0);
        for (int i = 0; i < 2; i++) {
            int m = open(i ? "/proc/slabinfo" : "/proc/meminfo", O_RDONLY);
            char text[8192];
            ssize_t n = m < 0 ? -1 : read(m, text, sizeof text);
            if (n > 0 && write(c, text, n) != n) perror("sidecar: write");
            if (m >= 0) close(m);
        }
        if (c >= 0) close(c);
    }
}
