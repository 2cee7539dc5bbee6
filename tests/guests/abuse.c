// Programs that behave badly, by name: what the kernel does then is what the robust suite looks at.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int unknown_call(void)
{
    for (int i = 0; i < 1000; i++)
        if (syscall(5000 + i % 2, 1, 2, 3) != -1 || errno != ENOSYS) return 1;
    puts("ENOSYS each time");
    return 0;
}

static int jump(void)
{
    puts("jumping");
    fflush(stdout);
    void (*volatile nowhere)(void) = (void (*)(void))0x123456789000;
    nowhere();
    return 1;
}

static int jump_into_the_kernel(void)
{
    // the kernel's half, non-canonical, zero: each in a child
    static const unsigned long places[] = {0xffffffff80000000, 0xffff800000000000, 0x8000000000000000, 0, 0x10};
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        pid_t p = fork();
        if (p == 0) {
            ((void (*)(void))places[i])();
            _exit(1);
        }
        int st = 0;
        if (waitpid(p, &st, 0) != p || !WIFSIGNALED(st) || WTERMSIG(st) != SIGSEGV) {
            printf("jump to %lx: status %x\n", places[i], st);
            return 1;
        }
    }
    puts("SIGSEGV each time");
    return 0;
}

static int bad_stack(void)
{
    // no stack at all, then a fault: the signal frame has no place to go
    puts("without a stack");
    fflush(stdout);
    __asm__ volatile("xor %%esp,%%esp; push %%rax" ::: "memory");
    return 1;
}

static int eat(void)
{
    for (size_t n = 0;; n++) {
        char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return errno == ENOMEM ? 12 : 1;
        memset(p, 1, 1 << 20);
    }
}

static int out_of_memory(void)
{
    for (int round = 0; round < 3; round++) {
        pid_t p = fork();
        if (p == 0) _exit(eat());
        int st = 0;
        if (waitpid(p, &st, 0) != p) return 1;
        int killed = WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL, refused = WIFEXITED(st) && WEXITSTATUS(st) == 12;
        if (!killed && !refused) {
            printf("the eater's status is %x\n", st);
            return 1;
        }
    }
    // and memory is there again
    char *p = mmap(0, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 1;
    memset(p, 1, 16 << 20);
    puts("survived three times");
    return 0;
}

static int bomb(void)
{
    struct timespec nap = {0, 20000000};
    int failed[2];
    if (pipe(failed)) return 1;
    pid_t leader = fork();
    if (leader == 0) {
        setpgid(0, 0);
        for (;;) {
            pid_t p = fork(); // parents and children alike go on forking
            if (p < 0) {
                char e = errno;
                if (write(failed[1], &e, 1) != 1) _exit(1);
                for (;;) pause();
            }
        }
    }
    setpgid(leader, leader);
    close(failed[1]);
    char e = 0;
    if (read(failed[0], &e, 1) != 1 || (e != EAGAIN && e != ENOMEM)) {
        printf("fork failed with errno %d\n", e);
        return 1;
    }
    // they fork while they are killed: several passes
    for (int i = 0; i < 500 && kill(-leader, SIGKILL) == 0; i++) nanosleep(&nap, 0);
    while (waitpid(-1, 0, WNOHANG) > 0) {}
    for (int i = 0; i < 200; i++) {
        pid_t p = fork();
        if (p == 0) _exit(8);
        int st = 0;
        if (p > 0) {
            if (waitpid(p, &st, 0) != p || !WIFEXITED(st) || WEXITSTATUS(st) != 8) return 1;
            printf("recovered after errno %s\n", e == EAGAIN ? "EAGAIN" : "ENOMEM");
            return 0;
        }
        nanosleep(&nap, 0);
    }
    puts("no fork succeeded afterwards");
    return 1;
}

static int many_opens(void)
{
    int want = 100000;
    struct rlimit rl = {want + 100, want + 100};
    if (setrlimit(RLIMIT_NOFILE, &rl)) {
        // without the right to raise it: as many as there may be, all the same
        if (errno != EPERM || getrlimit(RLIMIT_NOFILE, &rl)) return 1;
        rl.rlim_cur = rl.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &rl)) return 1;
        want = (int)rl.rlim_max - 100;
    }
    for (int round = 0; round < 2; round++) {
        int last = -1;
        for (int i = 0; i < want; i++) {
            last = open(i % 2 ? "/dev/null" : "/tmp", O_RDONLY);
            if (last < 0) {
                printf("open number %d: %s\n", i, strerror(errno));
                return 1;
            }
        }
        if (last < want - 3) return 1;
        for (int i = 3; i <= last; i++)
            if (close(i)) return 1;
    }
    rl.rlim_cur = 50;
    setrlimit(RLIMIT_NOFILE, &rl);
    int n = 0;
    while (open("/dev/null", O_RDONLY) >= 0) n++;
    if (errno != EMFILE) return 1;
    printf("%d opens, then EMFILE\n", want);
    return 0;
}

static int faults(void)
{
    // Each of these must end the program, not the machine. (Privileged instructions are not among them: where the
    // program runs beside the kernel, the processor lets it use them.)
    for (int i = 0; i < 5; i++) {
        pid_t p = fork();
        if (p == 0) {
            switch (i) {
            case 0: *(volatile long *)0xffffffff80000000 = 1; break;
            case 1: __asm__ volatile("ud2"); break;
            case 2: __asm__ volatile("int3"); break;
            case 3: *(volatile long *)0x8000000000000000 = 1; break;
            case 4: __asm__ volatile("mov %0,%%rsp; mov (%%rsp),%%rax" ::"r"(0x10L)); break;
            }
            _exit(0);
        }
        int st = 0;
        if (waitpid(p, &st, 0) != p || !WIFSIGNALED(st)) {
            printf("case %d: status %x\n", i, st);
            return 1;
        }
    }
    puts("each one killed");
    return 0;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; int (*run)(void); } modes[] = {
        {"unknown", unknown_call}, {"jump", jump}, {"jump-kernel", jump_into_the_kernel}, {"stack", bad_stack},
        {"memory", out_of_memory}, {"eat", eat}, {"bomb", bomb}, {"opens", many_opens}, {"faults", faults},
    };
    setvbuf(stdout, 0, _IOLBF, 0);
    for (unsigned i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(argv[1], modes[i].name)) return modes[i].run();
    puts("hello");
    return 0;
}
