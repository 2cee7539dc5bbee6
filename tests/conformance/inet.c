// TCP and UDP over loopback, IPv4 and IPv6.
#include "conf.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

union addr { struct sockaddr sa; struct sockaddr_in v4; struct sockaddr_in6 v6; };
static socklen_t loopback(union addr *a, int family, int port)
{
    memset(a, 0, sizeof *a);
    a->sa.sa_family = family;
    if (family == AF_INET6) {
        a->v6.sin6_addr = in6addr_loopback;
        a->v6.sin6_port = htons(port);
        return sizeof a->v6;
    }
    a->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a->v4.sin_port = htons(port);
    return sizeof a->v4;
}
static int port_of(int fd)
{
    union addr a;
    socklen_t len = sizeof a;
    OK(getsockname(fd, &a.sa, &len));
    return ntohs(a.sa.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
}
static int bound(int family, int type)
{
    union addr a;
    socklen_t len = loopback(&a, family, 0);
    int fd = OK(socket(family, type, 0));
    OK(bind(fd, &a.sa, len));
    T(port_of(fd) > 0);
    return fd;
}
static int listener(int family)
{
    int fd = bound(family, SOCK_STREAM);
    OK(listen(fd, 16));
    return fd;
}
static int dial(int family, int port)
{
    union addr a;
    socklen_t len = loopback(&a, family, port);
    int fd = OK(socket(family, SOCK_STREAM, 0));
    OK(connect(fd, &a.sa, len));
    return fd;
}
static void pair(int family, int s[2])
{
    int l = listener(family);
    s[0] = dial(family, port_of(l));
    s[1] = OK(accept(l, 0, 0));
    close(l);
}
static int wait_ready(int fd, int events, int ms)
{
    struct pollfd p = {fd, events, 0};
    OK(poll(&p, 1, ms));
    return p.revents;
}

static void echo(int family)
{
    int s[2];
    char buf[16];
    pair(family, s);
    EQ(write(s[0], "hello", 5), 5);
    EQ(recv(s[1], buf, 5, MSG_WAITALL), 5);
    EQ(send(s[1], "you", 3, 0), 3);
    EQ(recv(s[0], buf, 3, MSG_WAITALL), 3);
    close(s[1]);
    EQ(read(s[0], buf, 1), 0);
}
CHECK(tcp_echo_v4) { echo(AF_INET); }
CHECK(tcp_echo_v6) { echo(AF_INET6); }

CHECK(accept_reports_the_peer)
{
    int l = listener(AF_INET), c = dial(AF_INET, port_of(l));
    union addr a, b;
    socklen_t len = sizeof a;
    int s = OK(accept4(l, &a.sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC));
    EQ(len, sizeof a.v4);
    EQ(ntohs(a.v4.sin_port), port_of(c));
    EQ(ntohl(a.v4.sin_addr.s_addr), INADDR_LOOPBACK);
    EQ(fcntl(s, F_GETFD), FD_CLOEXEC);
    T(fcntl(s, F_GETFL) & O_NONBLOCK);
    len = sizeof b;
    OK(getpeername(c, &b.sa, &len));
    EQ(ntohs(b.v4.sin_port), port_of(l));
    char x;
    ERR(read(s, &x, 1), EAGAIN);
    ERR(getpeername(l, &b.sa, &len), ENOTCONN);
}

CHECK(connect_refused)
{
    for (int i = 0; i < 2; i++) {
        int family = i ? AF_INET6 : AF_INET, l = listener(family), port = port_of(l);
        close(l);
        union addr a;
        socklen_t len = loopback(&a, family, port);
        int fd = OK(socket(family, SOCK_STREAM, 0));
        ERR(connect(fd, &a.sa, len), ECONNREFUSED);
    }
}

CHECK(nonblocking_connect)
{
    int l = listener(AF_INET), port = port_of(l), err = -1;
    union addr a;
    socklen_t len = loopback(&a, AF_INET, port), el = sizeof err;
    int fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    if (connect(fd, &a.sa, len) == -1) EQ(errno, EINPROGRESS);
    EQ(wait_ready(fd, POLLOUT, 5000), POLLOUT);
    OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &el));
    EQ(err, 0);
    if (connect(fd, &a.sa, len) == -1) EQ(errno, EISCONN); // Linux says 0 once after EINPROGRESS
    ERR(connect(fd, &a.sa, len), EISCONN);
    close(l);
    fd = OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    ERR(connect(fd, &a.sa, len), EINPROGRESS);
    T(wait_ready(fd, POLLOUT, 5000) & POLLERR);
    OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &el));
    EQ(err, ECONNREFUSED);
    OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &el));
    EQ(err, 0); // reading it clears it
}

CHECK(bind_errors)
{
    union addr a;
    int l = listener(AF_INET), fd = OK(socket(AF_INET, SOCK_STREAM, 0));
    socklen_t len = loopback(&a, AF_INET, port_of(l));
    ERR(bind(fd, &a.sa, len), EADDRINUSE);
    a.v4.sin_addr.s_addr = htonl(0x08080808);
    ERR(bind(fd, &a.sa, len), EADDRNOTAVAIL);
    ERR(bind(fd, &a.sa, 3), EINVAL);
    OK(bind(fd, &a.sa, loopback(&a, AF_INET, 0)));
    ERR(bind(fd, &a.sa, len), EINVAL); // already bound
    ERR(accept(fd, 0, 0), EINVAL);
    ERR(bind(900, &a.sa, len), EBADF);
}

CHECK(reuseaddr_after_close)
{
    int l = OK(socket(AF_INET, SOCK_STREAM, 0)), on = 1;
    union addr a;
    socklen_t len = loopback(&a, AF_INET, 0);
    OK(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    OK(bind(l, &a.sa, len));
    OK(listen(l, 4));
    int port = port_of(l), c = dial(AF_INET, port), s = OK(accept(l, 0, 0));
    close(s); // the server's side closes first: TIME_WAIT
    char x;
    EQ(read(c, &x, 1), 0);
    close(c);
    close(l);
    l = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    len = loopback(&a, AF_INET, port);
    OK(bind(l, &a.sa, len));
    OK(listen(l, 4));
    close(dial(AF_INET, port));
}

CHECK(reuseport)
{
    int a = OK(socket(AF_INET, SOCK_STREAM, 0)), b = OK(socket(AF_INET, SOCK_STREAM, 0)), on = 1;
    union addr ad;
    OK(setsockopt(a, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on));
    OK(setsockopt(b, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on));
    OK(bind(a, &ad.sa, loopback(&ad, AF_INET, 0)));
    OK(listen(a, 4));
    OK(bind(b, &ad.sa, loopback(&ad, AF_INET, port_of(a))));
    OK(listen(b, 4));
}

CHECK(shutdown_halves)
{
    int s[2];
    char x;
    pair(AF_INET, s);
    OK(shutdown(s[0], SHUT_WR));
    EQ(read(s[1], &x, 1), 0);
    ERR(send(s[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    EQ(write(s[1], "y", 1), 1);
    EQ(read(s[0], &x, 1), 1);
    EQ(x, 'y');
    ERR(shutdown(s[0], 7), EINVAL);
    ERR(shutdown(OK(socket(AF_INET, SOCK_STREAM, 0)), SHUT_RD), ENOTCONN);
}

CHECK(reset_is_reported)
{
    int s[2];
    char x;
    pair(AF_INET, s);
    struct linger lg = {1, 0};
    OK(setsockopt(s[0], SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
    close(s[0]); // sends RST
    T(wait_ready(s[1], POLLIN, 5000) & (POLLERR | POLLHUP));
    ERR(read(s[1], &x, 1), ECONNRESET);
    EQ(read(s[1], &x, 1), 0);
    ERR(send(s[1], "x", 1, MSG_NOSIGNAL), EPIPE);
}

CHECK(peek_and_dontwait)
{
    int s[2], n = 0;
    char buf[8];
    pair(AF_INET, s);
    ERR(recv(s[0], buf, 8, MSG_DONTWAIT), EAGAIN);
    EQ(write(s[1], "abcd", 4), 4);
    EQ(wait_ready(s[0], POLLIN, 5000), POLLIN);
    EQ(recv(s[0], buf, 2, MSG_PEEK), 2);
    OK(ioctl(s[0], FIONREAD, &n));
    EQ(n, 4);
    EQ(recv(s[0], buf, 8, MSG_PEEK), 4);
    EQ(recv(s[0], buf, 8, 0), 4);
    T(!memcmp(buf, "abcd", 4));
}

CHECK(sendmsg_gathers_recvmsg_scatters)
{
    int s[2];
    pair(AF_INET6, s);
    struct iovec out[3] = {{"one", 3}, {"", 0}, {"two", 3}};
    struct msghdr m = {.msg_iov = out, .msg_iovlen = 3};
    EQ(sendmsg(s[0], &m, 0), 6);
    char a[2], b[4];
    struct iovec in[2] = {{a, 2}, {b, 4}};
    m = (struct msghdr){.msg_iov = in, .msg_iovlen = 2};
    EQ(recvmsg(s[1], &m, MSG_WAITALL), 6);
    T(!memcmp(a, "on", 2) && !memcmp(b, "etwo", 4));
    EQ(m.msg_flags & MSG_TRUNC, 0);
}

CHECK(socket_options)
{
    int fd = OK(socket(AF_INET, SOCK_STREAM, 0)), v = 0;
    socklen_t len = sizeof v;
    OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &v, &len));
    EQ(v, SOCK_STREAM);
    OK(getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &v, &len));
    EQ(v, IPPROTO_TCP);
    v = 1;
    OK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &v, sizeof v));
    v = 0;
    OK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &v, &len));
    EQ(v, 1);
    OK(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &v, sizeof v));
    v = 0;
    OK(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &v, &len));
    EQ(v, 1);
    v = 60;
    OK(setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &v, sizeof v));
    v = 65536;
    OK(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &v, sizeof v));
    OK(getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &v, &len));
    T(v >= 65536);
    OK(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &v, &len));
    T(v > 0);
    ERR(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &v, 1), EINVAL);
    ERR(getsockopt(fd, IPPROTO_TCP, 9999, &v, &len), ENOPROTOOPT);
    int l = listener(AF_INET);
    OK(getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &v, &len));
    EQ(v, 1);
    struct tcp_info ti;
    len = sizeof ti;
    OK(getsockopt(l, IPPROTO_TCP, TCP_INFO, &ti, &len));
    EQ(ti.tcpi_state, TCP_LISTEN);
}

CHECK(receive_timeout)
{
    int s[2];
    char x;
    pair(AF_INET, s);
    struct timeval tv = {0, 40000};
    OK(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    int64_t t0 = now_ns();
    ERR(recv(s[0], &x, 1, 0), EAGAIN);
    T(now_ns() - t0 >= 35000000);
}

static void large(int family)
{
    int s[2];
    static unsigned char buf[200000];
    pair(family, s);
    pid_t k = CHILD({
        close(s[1]);
        for (int i = 0; i < 40; i++) {
            for (size_t j = 0; j < sizeof buf; j += 4) *(uint32_t *)(buf + j) = i * 1000003 + j;
            size_t at = 0;
            while (at < sizeof buf) at += OK(write(s[0], buf + at, sizeof buf - at));
        }
        shutdown(s[0], SHUT_WR);
    });
    close(s[0]);
    for (int i = 0; i < 40; i++) {
        for (size_t at = 0; at < sizeof buf;) {
            ssize_t n = OK(read(s[1], buf + at, sizeof buf - at));
            T(n > 0);
            at += n;
        }
        for (size_t j = 0; j < sizeof buf; j += 4)
            if (*(uint32_t *)(buf + j) != i * 1000003 + j)
                FAIL("block %d, byte %zu: %x, expected %zx", i, j, *(uint32_t *)(buf + j), i * 1000003 + j);
    }
    EQ(read(s[1], buf, 1), 0);
    EXITS(k, 0);
}
CHECK(tcp_8_megabytes_v4) { large(AF_INET); }
CHECK(tcp_8_megabytes_v6) { large(AF_INET6); }

CHECK(tcp_flow_control)
{
    int s[2];
    static char buf[65536];
    size_t sent = 0, got = 0;
    pair(AF_INET, s);
    OK(fcntl(s[0], F_SETFL, O_NONBLOCK));
    for (ssize_t n; (n = write(s[0], buf, sizeof buf)) > 0;) sent += n;
    EQ(errno, EAGAIN);
    T(sent > 4096);
    EQ(wait_ready(s[0], POLLOUT, 0), 0);
    while (got < sent) got += OK(read(s[1], buf, sizeof buf));
    EQ(got, sent);
    EQ(wait_ready(s[0], POLLOUT, 5000), POLLOUT);
}

CHECK(many_connections)
{
    int l = listener(AF_INET), c[64], s[64];
    OK(listen(l, 128));
    for (int i = 0; i < 64; i++) c[i] = dial(AF_INET, port_of(l));
    for (int i = 0; i < 64; i++) s[i] = OK(accept(l, 0, 0));
    for (int i = 0; i < 64; i++) {
        int port = port_of(c[i]);
        EQ(write(c[i], &port, sizeof port), sizeof port);
    }
    for (int i = 0; i < 64; i++) {
        int port = 0;
        union addr a;
        socklen_t len = sizeof a;
        EQ(recv(s[i], &port, sizeof port, MSG_WAITALL), sizeof port);
        OK(getpeername(s[i], &a.sa, &len));
        EQ(port, ntohs(a.v4.sin_port));
    }
}

CHECK(accept_nonblocking_and_poll)
{
    int l = listener(AF_INET);
    OK(fcntl(l, F_SETFL, O_NONBLOCK));
    ERR(accept(l, 0, 0), EAGAIN);
    EQ(wait_ready(l, POLLIN, 0), 0);
    int c = dial(AF_INET, port_of(l));
    EQ(wait_ready(l, POLLIN, 5000), POLLIN);
    int s = OK(accept(l, 0, 0));
    EQ(fcntl(s, F_GETFL) & O_NONBLOCK, 0); // not inherited on Linux
    close(c);
    T(wait_ready(s, POLLIN | POLLRDHUP, 5000) == (POLLIN | POLLRDHUP));
}

CHECK(epoll_edge_on_tcp)
{
    int s[2], ep = OK(epoll_create1(0));
    char buf[8];
    pair(AF_INET, s);
    struct epoll_event e = {.events = EPOLLIN | EPOLLET | EPOLLRDHUP};
    OK(epoll_ctl(ep, EPOLL_CTL_ADD, s[0], &e));
    EQ(epoll_wait(ep, &e, 1, 0), 0);
    EQ(write(s[1], "a", 1), 1);
    EQ(epoll_wait(ep, &e, 1, 5000), 1);
    EQ(e.events, EPOLLIN);
    EQ(epoll_wait(ep, &e, 1, 0), 0);
    EQ(write(s[1], "b", 1), 1);
    EQ(epoll_wait(ep, &e, 1, 5000), 1);
    EQ(recv(s[0], buf, 2, MSG_WAITALL), 2);
    close(s[1]);
    EQ(epoll_wait(ep, &e, 1, 5000), 1);
    EQ(e.events, EPOLLIN | EPOLLRDHUP);
}

CHECK(fork_shares_a_listener)
{
    int l = listener(AF_INET);
    pid_t k[3];
    for (int i = 0; i < 3; i++)
        k[i] = CHILD(int s = OK(accept(l, 0, 0)); pid_t me = getpid(); EQ(write(s, &me, sizeof me), sizeof me));
    int seen = 0;
    for (int i = 0; i < 3; i++) {
        pid_t who = 0;
        int c = dial(AF_INET, port_of(l));
        EQ(recv(c, &who, sizeof who, MSG_WAITALL), sizeof who);
        for (int j = 0; j < 3; j++)
            if (who == k[j]) seen |= 1 << j;
        close(c);
    }
    EQ(seen, 7);
    for (int i = 0; i < 3; i++) EXITS(k[i], 0);
}

static void datagrams(int family)
{
    int a = bound(family, SOCK_DGRAM), b = bound(family, SOCK_DGRAM);
    union addr to, from;
    socklen_t len = loopback(&to, family, port_of(b)), fl = sizeof from;
    char buf[2000] = {0}, big[1400];
    memset(big, 'q', sizeof big);
    EQ(sendto(a, "one", 3, 0, &to.sa, len), 3);
    EQ(sendto(a, big, sizeof big, 0, &to.sa, len), sizeof big);
    EQ(sendto(a, "", 0, 0, &to.sa, len), 0);
    EQ(recvfrom(b, buf, sizeof buf, 0, &from.sa, &fl), 3);
    EQ(ntohs(family == AF_INET6 ? from.v6.sin6_port : from.v4.sin_port), port_of(a));
    EQ(recv(b, buf, sizeof buf, 0), sizeof big);
    EQ(recv(b, buf, sizeof buf, 0), 0);
    ERR(recv(b, buf, 1, MSG_DONTWAIT), EAGAIN);
    OK(connect(a, &to.sa, len));
    EQ(write(a, "abcdef", 6), 6);
    struct iovec v = {buf, 2};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    EQ(recvmsg(b, &m, 0), 2);
    T(m.msg_flags & MSG_TRUNC);
}
CHECK(udp_v4) { datagrams(AF_INET); }
CHECK(udp_v6) { datagrams(AF_INET6); }

CHECK(udp_refused_comes_back)
{
    int gone = bound(AF_INET, SOCK_DGRAM), port = port_of(gone), fd = OK(socket(AF_INET, SOCK_DGRAM, 0));
    close(gone);
    union addr a;
    OK(connect(fd, &a.sa, loopback(&a, AF_INET, port)));
    EQ(write(fd, "x", 1), 1);
    T(wait_ready(fd, POLLIN, 5000) & POLLERR);
    char x;
    ERR(recv(fd, &x, 1, MSG_DONTWAIT), ECONNREFUSED);
}

CHECK(udp_multiple_messages)
{
    int a = bound(AF_INET, SOCK_DGRAM), b = bound(AF_INET, SOCK_DGRAM);
    union addr to;
    OK(connect(a, &to.sa, loopback(&to, AF_INET, port_of(b))));
    struct iovec v[4];
    struct mmsghdr m[4];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 4; i++) {
        v[i] = (struct iovec){"datagram", i + 1};
        m[i].msg_hdr.msg_iov = &v[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
    EQ(sendmmsg(a, m, 4, 0), 4);
    char buf[4][16];
    for (int i = 0; i < 4; i++) v[i] = (struct iovec){buf[i], 16};
    EQ(wait_ready(b, POLLIN, 5000), POLLIN);
    EQ(recvmmsg(b, m, 4, MSG_WAITFORONE, 0), 4);
    for (int i = 0; i < 4; i++) EQ(m[i].msg_len, i + 1);
}

CHECK(dual_stack_listener)
{
    int l = OK(socket(AF_INET6, SOCK_STREAM, 0)), off = 0;
    union addr a;
    OK(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off));
    socklen_t len = loopback(&a, AF_INET6, 0);
    a.v6.sin6_addr = in6addr_any;
    OK(bind(l, &a.sa, len));
    OK(listen(l, 4));
    int c4 = dial(AF_INET, port_of(l));
    len = sizeof a;
    OK(accept(l, &a.sa, &len));
    EQ(a.sa.sa_family, AF_INET6);
    T(IN6_IS_ADDR_V4MAPPED(&a.v6.sin6_addr));
    int c6 = dial(AF_INET6, port_of(l));
    OK(accept(l, &a.sa, &len));
    close(c4);
    close(c6);
}

CHECK(v6_datagram_socket_takes_a_v4_peer)
{
    // glibc's getaddrinfo asks so for the source address of each candidate
    union addr a;
    int fd = OK(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_IP));
    OK(connect(fd, &a.sa, loopback(&a, AF_INET, 9)));
    socklen_t len = sizeof a;
    OK(getsockname(fd, &a.sa, &len));
    EQ(a.sa.sa_family, AF_INET6);
    T(IN6_IS_ADDR_V4MAPPED(&a.v6.sin6_addr));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    OK(connect(fd, &none, sizeof none));
    OK(connect(fd, &a.sa, loopback(&a, AF_INET6, 9)));
    len = sizeof a;
    OK(getsockname(fd, &a.sa, &len));
    T(IN6_IS_ADDR_LOOPBACK(&a.v6.sin6_addr));
}
