// AF_UNIX sockets: stream, datagram, seqpacket, passing descriptors and credentials, names.
#include "conf.h"
#include <sys/un.h>

static socklen_t name(struct sockaddr_un *a, const char *path)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    if (path[0] == '@') { // an abstract name
        memcpy(a->sun_path + 1, path + 1, strlen(path + 1));
        return offsetof(struct sockaddr_un, sun_path) + strlen(path);
    }
    strcpy(a->sun_path, path);
    return offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
}
static int listener(const char *path, int type)
{
    struct sockaddr_un a;
    socklen_t len = name(&a, path);
    int fd = OK(socket(AF_UNIX, type, 0));
    OK(bind(fd, (void *)&a, len));
    OK(listen(fd, 8));
    return fd;
}
static int dial(const char *path, int type)
{
    struct sockaddr_un a;
    socklen_t len = name(&a, path);
    int fd = socket(AF_UNIX, type, 0);
    if (connect(fd, (void *)&a, len) == 0) return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

CHECK(socketpair_stream)
{
    int s[2];
    char buf[16];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    EQ(write(s[0], "abc", 3), 3);
    EQ(write(s[0], "def", 3), 3);
    EQ(read(s[1], buf, 16), 6);
    EQ(send(s[1], "back", 4, 0), 4);
    EQ(recv(s[0], buf, 2, MSG_PEEK), 2);
    EQ(recv(s[0], buf, 16, 0), 4);
    ERR(recv(s[0], buf, 1, MSG_DONTWAIT), EAGAIN);
    close(s[0]);
    EQ(read(s[1], buf, 1), 0);
    ERR(send(s[1], "x", 1, MSG_NOSIGNAL), EPIPE);
}

CHECK(socketpair_datagram_keeps_messages)
{
    int s[2];
    char buf[16];
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    EQ(send(s[0], "one", 3, 0), 3);
    EQ(send(s[0], "three", 5, 0), 5);
    EQ(send(s[0], "", 0, 0), 0);
    EQ(recv(s[1], buf, 16, 0), 3);
    EQ(recv(s[1], buf, 2, MSG_TRUNC), 5);
    EQ(recv(s[1], buf, 16, 0), 0);
}

CHECK(seqpacket)
{
    int s[2];
    char buf[16];
    OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
    EQ(send(s[0], "one", 3, 0), 3);
    EQ(send(s[0], "four", 4, 0), 4);
    EQ(recv(s[1], buf, 16, 0), 3);
    struct iovec v = {buf, 2};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    EQ(recvmsg(s[1], &m, 0), 2);
    T(m.msg_flags & MSG_TRUNC);
    close(s[0]);
    EQ(recv(s[1], buf, 16, 0), 0);
}

CHECK(listen_connect_accept)
{
    int l = listener("sock", SOCK_STREAM);
    pid_t k = CHILD(int c = OK(dial("sock", SOCK_STREAM)); EQ(write(c, "hi", 2), 2); char x; EQ(read(c, &x, 1), 1));
    struct sockaddr_un peer;
    socklen_t len = sizeof peer;
    int a = OK(accept4(l, (void *)&peer, &len, SOCK_CLOEXEC));
    EQ(peer.sun_family, AF_UNIX);
    EQ(len, 2); // the client has no name
    EQ(fcntl(a, F_GETFD), FD_CLOEXEC);
    char buf[4];
    EQ(read(a, buf, 4), 2);
    EQ(write(a, "y", 1), 1);
    EXITS(k, 0);
    len = sizeof peer;
    OK(getsockname(a, (void *)&peer, &len));
    T(!strcmp(peer.sun_path, "sock"));
    struct stat st;
    OK(stat("sock", &st));
    T(S_ISSOCK(st.st_mode));
}

CHECK(connect_errors)
{
    ERR(dial("absent", SOCK_STREAM), ENOENT);
    ERR(dial("@nobody-here", SOCK_STREAM), ECONNREFUSED);
    close(listener("dead", SOCK_STREAM));
    ERR(dial("dead", SOCK_STREAM), ECONNREFUSED);
    struct sockaddr_un a;
    socklen_t len = name(&a, "dead");
    int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    ERR(bind(fd, (void *)&a, len), EADDRINUSE);
    ERR(send(fd, "x", 1, MSG_NOSIGNAL), ENOTCONN);
    listener("stream", SOCK_STREAM);
    ERR(dial("stream", SOCK_DGRAM), EPROTOTYPE);
    ERR(accept(fd, 0, 0), EINVAL);
    close(OK(open("plain", O_CREAT | O_WRONLY, 0600)));
    ERR(dial("plain", SOCK_STREAM), ECONNREFUSED);
}

CHECK(abstract_names)
{
    int l = listener("@coracle-conf", SOCK_STREAM);
    struct sockaddr_un a;
    socklen_t len = name(&a, "@coracle-conf");
    ERR(bind(OK(socket(AF_UNIX, SOCK_STREAM, 0)), (void *)&a, len), EADDRINUSE);
    int c = OK(dial("@coracle-conf", SOCK_STREAM)), s = OK(accept(l, 0, 0));
    EQ(write(c, "x", 1), 1);
    char x;
    EQ(read(s, &x, 1), 1);
    close(l);
    ERR(dial("@coracle-conf", SOCK_STREAM), ECONNREFUSED); // gone with its socket
}

CHECK(autobind)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    OK(bind(fd, (void *)&a, sizeof(sa_family_t)));
    socklen_t len = sizeof a;
    OK(getsockname(fd, (void *)&a, &len));
    EQ(len, 2 + 6);
    EQ(a.sun_path[0], 0);
}

CHECK(datagram_by_name)
{
    struct sockaddr_un srv, cli, from;
    socklen_t sl = name(&srv, "srv"), cl = name(&cli, "cli"), fl = sizeof from;
    int s = OK(socket(AF_UNIX, SOCK_DGRAM, 0)), c = OK(socket(AF_UNIX, SOCK_DGRAM, 0));
    OK(bind(s, (void *)&srv, sl));
    OK(bind(c, (void *)&cli, cl));
    EQ(sendto(c, "ping", 4, 0, (void *)&srv, sl), 4);
    char buf[8];
    EQ(recvfrom(s, buf, 8, 0, (void *)&from, &fl), 4);
    T(!strcmp(from.sun_path, "cli"));
    EQ(sendto(s, "pong", 4, 0, (void *)&from, fl), 4);
    EQ(recv(c, buf, 8, 0), 4);
    OK(unlink("srv"));
    ERR(sendto(c, "x", 1, 0, (void *)&srv, sl), ENOENT);
}

static ssize_t send_fds(int s, int *fds, int n)
{
    union { struct cmsghdr h; char space[CMSG_SPACE(8 * sizeof(int))]; } c = {0};
    struct iovec v = {"F", 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    c.h.cmsg_level = SOL_SOCKET;
    c.h.cmsg_type = SCM_RIGHTS;
    c.h.cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(&c.h), fds, n * sizeof(int));
    return sendmsg(s, &m, 0);
}
static int recv_fds(int s, int *fds, int flags)
{
    union { struct cmsghdr h; char space[CMSG_SPACE(8 * sizeof(int))]; } c = {0};
    char x;
    struct iovec v = {&x, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
    EQ(recvmsg(s, &m, flags), 1);
    if (m.msg_controllen < sizeof(struct cmsghdr)) return 0;
    EQ(c.h.cmsg_type, SCM_RIGHTS);
    int n = (c.h.cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(&c.h), n * sizeof(int));
    return n;
}

CHECK(pass_descriptors)
{
    int s[2], p[2], got[8];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    pid_t k = CHILD({
        OK(pipe(p));
        EQ(write(p[1], "through", 7), 7);
        EQ(send_fds(s[0], p, 2), 1);
    });
    EQ(recv_fds(s[1], got, MSG_CMSG_CLOEXEC), 2);
    EXITS(k, 0);
    EQ(fcntl(got[0], F_GETFD), FD_CLOEXEC);
    char buf[8];
    EQ(read(got[0], buf, 8), 7);
    close(got[1]);
    EQ(read(got[0], buf, 8), 0);
    int bad = 900;
    ERR(send_fds(s[0], &bad, 1), EBADF);
}

CHECK(descriptor_in_flight_keeps_the_file)
{
    int s[2], p[2], got[8];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    OK(pipe(p));
    EQ(send_fds(s[0], &p[1], 1), 1);
    close(p[1]);
    struct pollfd f = {p[0], POLLIN, 0};
    EQ(poll(&f, 1, 0), 0); // a writer still exists: in the socket
    EQ(recv_fds(s[1], got, 0), 1);
    EQ(write(got[0], "x", 1), 1);
    close(got[0]);
    char c;
    EQ(read(p[0], &c, 1), 1);
    EQ(read(p[0], &c, 1), 0);
    // never received: closed with the socket
    OK(pipe(p));
    EQ(send_fds(s[0], &p[1], 1), 1);
    close(p[1]);
    close(s[0]);
    close(s[1]);
    EQ(read(p[0], &c, 1), 0);
}

CHECK(peer_credentials)
{
    int l = listener("sock", SOCK_STREAM);
    pid_t k = CHILD(int c = OK(dial("sock", SOCK_STREAM)); char x; EQ(read(c, &x, 1), 1));
    int a = OK(accept(l, 0, 0));
    struct ucred u;
    socklen_t len = sizeof u;
    OK(getsockopt(a, SOL_SOCKET, SO_PEERCRED, &u, &len));
    EQ(u.pid, k);
    EQ(u.uid, getuid());
    EQ(u.gid, getgid());
    EQ(write(a, "x", 1), 1);
    EXITS(k, 0);
}

CHECK(credentials_message)
{
    int s[2], on = 1;
    OK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s));
    OK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    EQ(send(s[0], "x", 1, 0), 1);
    union { struct cmsghdr h; char space[CMSG_SPACE(sizeof(struct ucred))]; } c = {0};
    char x;
    struct iovec v = {&x, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
    EQ(recvmsg(s[1], &m, 0), 1);
    EQ(c.h.cmsg_type, SCM_CREDENTIALS);
    EQ(((struct ucred *)CMSG_DATA(&c.h))->pid, getpid());
}

CHECK(shutdown_halves)
{
    int s[2];
    char c;
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    OK(shutdown(s[0], SHUT_WR));
    EQ(read(s[1], &c, 1), 0);
    ERR(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    EQ(write(s[1], "x", 1), 1);
    EQ(read(s[0], &c, 1), 1);
    OK(shutdown(s[0], SHUT_RD));
    EQ(read(s[0], &c, 1), 0);
    ERR(send(s[1], "x", 1, MSG_NOSIGNAL), EPIPE);
}

CHECK(socket_options)
{
    int s[2], v = 0;
    socklen_t len = sizeof v;
    OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
    OK(getsockopt(s[0], SOL_SOCKET, SO_TYPE, &v, &len));
    EQ(v, SOCK_SEQPACKET);
    OK(getsockopt(s[0], SOL_SOCKET, SO_DOMAIN, &v, &len));
    EQ(v, AF_UNIX);
    OK(getsockopt(s[0], SOL_SOCKET, SO_ACCEPTCONN, &v, &len));
    EQ(v, 0);
    OK(getsockopt(s[0], SOL_SOCKET, SO_ERROR, &v, &len));
    EQ(v, 0);
    struct timeval tv = {0, 30000};
    OK(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    int64_t t0 = now_ns();
    char c;
    ERR(recv(s[0], &c, 1, 0), EAGAIN);
    T(now_ns() - t0 >= 25000000);
    ERR(socket(AF_UNIX, 77, 0), EINVAL);
    ERR(socket(99, SOCK_STREAM, 0), EAFNOSUPPORT);
    ERR(getsockopt(s[0], SOL_SOCKET, 9999, &v, &len), ENOPROTOOPT);
    int p[2];
    OK(pipe(p));
    ERR(listen(p[0], 1), ENOTSOCK);
}

CHECK(stream_large_transfer)
{
    int s[2];
    static unsigned char buf[100000];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    pid_t k = CHILD({
        for (int i = 0; i < 40; i++) {
            memset(buf, i, sizeof buf);
            EQ(send(s[0], buf, sizeof buf, 0), sizeof buf);
        }
    });
    close(s[0]);
    size_t at = 0;
    for (ssize_t n; (n = read(s[1], buf, 7777)) > 0; at += n)
        for (int i = 0; i < n; i += 555) EQ(buf[i], (at + i) / sizeof buf);
    EQ(at, 40 * sizeof buf);
    EXITS(k, 0);
}

CHECK(waitall)
{
    int s[2];
    char buf[8] = {0};
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
    pid_t k = CHILD(for (int i = 0; i < 4; i++) { EQ(write(s[0], "ab", 2), 2); sleep_ms(5); });
    EQ(recv(s[1], buf, 8, MSG_WAITALL), 8);
    EXITS(k, 0);
}
