// The red zone: a leaf function may use the 128 bytes below RSP, and every register is its own. Interrupts,
// page faults, signals and other threads come meanwhile; not one byte may change behind its back.
#include "conf.h"

// Fills 128 bytes below RSP, fifteen general registers and sixteen vector registers with known values, spins, and
// compares them all, `rounds` times. Gives 0, or a number that says what changed: 1 red zone, 2 general registers,
// 3 vector registers, 4 RSP itself, 5 flags.
long redzone_spin(long rounds, long spins);
__asm__(
    ".text\n.globl redzone_spin\n.type redzone_spin,@function\nredzone_spin:\n"
    "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "  sub $24,%rsp\n"
    "  mov %rdi,(%rsp)\n  mov %rsi,8(%rsp)\n  mov %rsp,16(%rsp)\n"
    "1:\n"
    // the red zone: 16 words of a pattern that differs in each
    "  mov $0x0101010101010101,%rax\n  mov $0x1122334455667788,%rcx\n"
    ".set i,1\n.rept 16\n  add %rax,%rcx\n  mov %rcx,-8*i(%rsp)\n.set i,i+1\n.endr\n"
    // the vector registers: value n in both halves of xmm n
    ".set i,0\n.rept 16\n  mov $(0x5a00+i),%eax\n  movq %rax,%xmm0\n  punpcklqdq %xmm0,%xmm0\n  movdqu %xmm0,vectors+16*i(%rip)\n.set i,i+1\n.endr\n"
    "  movdqu vectors+0(%rip),%xmm0;   movdqu vectors+16(%rip),%xmm1;  movdqu vectors+32(%rip),%xmm2;  movdqu vectors+48(%rip),%xmm3\n"
    "  movdqu vectors+64(%rip),%xmm4;  movdqu vectors+80(%rip),%xmm5;  movdqu vectors+96(%rip),%xmm6;  movdqu vectors+112(%rip),%xmm7\n"
    "  movdqu vectors+128(%rip),%xmm8; movdqu vectors+144(%rip),%xmm9; movdqu vectors+160(%rip),%xmm10; movdqu vectors+176(%rip),%xmm11\n"
    "  movdqu vectors+192(%rip),%xmm12; movdqu vectors+208(%rip),%xmm13; movdqu vectors+224(%rip),%xmm14; movdqu vectors+240(%rip),%xmm15\n"
    "  mov $0xb1,%ebx; mov $0xc1,%ecx; mov $0xd1,%edx; mov $0xe1,%esi; mov $0xf1,%edi; mov $0xa2,%ebp\n"
    "  mov $0x8008,%r8d; mov $0x9009,%r9d; mov $0x1010,%r10d; mov $0x1111,%r11d; mov $0x1212,%r12d\n"
    "  mov $0x1313,%r13d; mov $0x1414,%r14d; mov $0x1515,%r15d\n"
    "  mov 8(%rsp),%rax\n"
    "  stc\n"
    // spin without touching the carry flag
    "2: dec %rax\n  jnz 2b\n"
    "  mov $5,%eax\n  jnc 9f\n"
    "  mov $4,%eax\n  cmp %rsp,16(%rsp)\n  jne 9f\n"
    "  mov $2,%eax\n"
    "  cmp $0xb1,%rbx; jne 9f; cmp $0xc1,%rcx; jne 9f; cmp $0xd1,%rdx; jne 9f; cmp $0xe1,%rsi; jne 9f\n"
    "  cmp $0xf1,%rdi; jne 9f; cmp $0xa2,%rbp; jne 9f; cmp $0x8008,%r8; jne 9f; cmp $0x9009,%r9; jne 9f\n"
    "  cmp $0x1010,%r10; jne 9f; cmp $0x1111,%r11; jne 9f; cmp $0x1212,%r12; jne 9f; cmp $0x1313,%r13; jne 9f\n"
    "  cmp $0x1414,%r14; jne 9f; cmp $0x1515,%r15; jne 9f\n"
    "  mov $1,%eax\n  mov $0x0101010101010101,%rdx\n  mov $0x1122334455667788,%rcx\n"
    ".set i,1\n.rept 16\n  add %rdx,%rcx\n  cmp %rcx,-8*i(%rsp)\n  jne 9f\n.set i,i+1\n.endr\n"
    "  pcmpeqb vectors+0(%rip),%xmm0;   pcmpeqb vectors+16(%rip),%xmm1;  pcmpeqb vectors+32(%rip),%xmm2;  pcmpeqb vectors+48(%rip),%xmm3\n"
    "  pcmpeqb vectors+64(%rip),%xmm4;  pcmpeqb vectors+80(%rip),%xmm5;  pcmpeqb vectors+96(%rip),%xmm6;  pcmpeqb vectors+112(%rip),%xmm7\n"
    "  pcmpeqb vectors+128(%rip),%xmm8; pcmpeqb vectors+144(%rip),%xmm9; pcmpeqb vectors+160(%rip),%xmm10; pcmpeqb vectors+176(%rip),%xmm11\n"
    "  pcmpeqb vectors+192(%rip),%xmm12; pcmpeqb vectors+208(%rip),%xmm13; pcmpeqb vectors+224(%rip),%xmm14; pcmpeqb vectors+240(%rip),%xmm15\n"
    "  pand %xmm1,%xmm0; pand %xmm2,%xmm0; pand %xmm3,%xmm0; pand %xmm4,%xmm0; pand %xmm5,%xmm0; pand %xmm6,%xmm0; pand %xmm7,%xmm0\n"
    "  pand %xmm8,%xmm0; pand %xmm9,%xmm0; pand %xmm10,%xmm0; pand %xmm11,%xmm0; pand %xmm12,%xmm0; pand %xmm13,%xmm0\n"
    "  pand %xmm14,%xmm0; pand %xmm15,%xmm0\n"
    "  pmovmskb %xmm0,%ecx\n  mov $3,%eax\n  cmp $0xffff,%ecx\n  jne 9f\n"
    "  decq (%rsp)\n  jnz 1b\n"
    "  xor %eax,%eax\n"
    "9: add $24,%rsp\n"
    "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n  ret\n"
    ".size redzone_spin,.-redzone_spin\n"
    ".local vectors\n.comm vectors,256,16\n");

static const char *const what[] = {"nothing", "the red zone", "a general register", "a vector register", "RSP", "the flags"};
static volatile int ticks;
static void tick(int sig)
{
    (void)sig;
    ticks++;
    // a handler of our own that uses stack and vector registers, as real ones do
    volatile char scratch[512];
    memset((char *)scratch, 0xee, sizeof scratch);
    __asm__ volatile("pcmpeqd %%xmm0,%%xmm0; pcmpeqd %%xmm9,%%xmm9; pcmpeqd %%xmm15,%%xmm15" ::: "xmm0", "xmm9", "xmm15");
}
// Until `ms` milliseconds have passed.
static void spin_for(int ms)
{
    for (int64_t t0 = now_ns(); now_ns() - t0 < ms * 1000000LL;) {
        long r = redzone_spin(20, 20000);
        if (r) FAIL("%s changed under an interrupt", what[r]);
    }
}

static volatile int harm;
static void harmful(int sig, siginfo_t *si, void *ctx)
{
    (void)sig, (void)si;
    long *uc = ctx;
    unsigned char *sp = (unsigned char *)uc[20]; // the interrupted RSP in Linux's signal frame
    if (harm) sp[-100] ^= 1;
    ticks++;
}
CHECK(the_detector_detects)
{
    // the test of the test: a handler that spoils one bit of the red zone must be noticed
    struct itimerval it = {{0, 1000}, {0, 1000}};
    struct sigaction sa = {.sa_sigaction = harmful, .sa_flags = SA_SIGINFO};
    OK(sigaction(SIGALRM, &sa, 0));
    OK(setitimer(ITIMER_REAL, &it, 0));
    harm = 1;
    long r = 0;
    for (int i = 0; i < 5000 && r != 1; i++) r = redzone_spin(20, 20000);
    harm = 0;
    memset(&it, 0, sizeof it);
    OK(setitimer(ITIMER_REAL, &it, 0));
    EQ(r, 1);
}

CHECK(alone)
{
    spin_for(200);
}

CHECK(with_a_timer_signal_every_millisecond)
{
    struct itimerval it = {{0, 1000}, {0, 1000}};
    struct sigaction sa = {.sa_handler = tick, .sa_flags = SA_RESTART};
    OK(sigaction(SIGALRM, &sa, 0));
    OK(setitimer(ITIMER_REAL, &it, 0));
    for (int i = 0; i < 40 && ticks < 200; i++) spin_for(100);
    memset(&it, 0, sizeof it);
    OK(setitimer(ITIMER_REAL, &it, 0));
    T(ticks >= 50); // the flood did come
}

CHECK(handlers_on_an_alternate_stack)
{
    static char alt[64 << 10];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof alt};
    struct itimerval it = {{0, 1000}, {0, 1000}};
    struct sigaction sa = {.sa_handler = tick, .sa_flags = SA_RESTART | SA_ONSTACK};
    OK(sigaltstack(&ss, 0));
    OK(sigaction(SIGALRM, &sa, 0));
    OK(setitimer(ITIMER_REAL, &it, 0));
    for (int i = 0; i < 40 && ticks < 100; i++) spin_for(50);
    T(ticks >= 25);
}

static volatile int stop;
static void *sleeper(void *arg)
{
    while (!stop) {
        struct timespec ts = {0, 300000};
        nanosleep(&ts, 0);
    }
    return arg;
}
static void *noisy(void *arg)
{
    // vector registers with other values on the same CPUs
    while (!stop)
        __asm__ volatile("pcmpeqd %%xmm0,%%xmm0; pcmpeqd %%xmm3,%%xmm3; pxor %%xmm8,%%xmm8; pxor %%xmm15,%%xmm15" ::: "xmm0", "xmm3", "xmm8", "xmm15");
    return arg;
}
static void *spinner(void *arg)
{
    long r = 0;
    for (int64_t t0 = now_ns(); !r && now_ns() - t0 < 300000000;) r = redzone_spin(20, 20000);
    (void)arg;
    return (void *)r;
}
CHECK(with_other_threads)
{
    pthread_t t[7];
    void *r;
    for (int i = 0; i < 2; i++) EQ(pthread_create(&t[i], 0, sleeper, 0), 0);
    for (int i = 2; i < 4; i++) EQ(pthread_create(&t[i], 0, noisy, 0), 0);
    for (int i = 4; i < 7; i++) EQ(pthread_create(&t[i], 0, spinner, 0), 0);
    for (int i = 4; i < 7; i++) {
        EQ(pthread_join(t[i], &r), 0);
        if (r) FAIL("%s changed in a thread", what[(long)r]);
    }
    stop = 1;
    for (int i = 0; i < 4; i++) EQ(pthread_join(t[i], 0), 0);
}

// Writes into the red zone over an untouched page: the page fault itself comes while RSP points there.
long redzone_fault(void *stack);
__asm__(".text\n.globl redzone_fault\n.type redzone_fault,@function\nredzone_fault:\n"
        "  mov %rsp,%rdx\n  mov %rdi,%rsp\n"
        "  movq $0x77,-128(%rsp)\n  movq $0x78,-8(%rsp)\n"
        "  movq $1,-8192(%rsp)\n"  // the next page down: a fault with a live red zone
        "  mov -128(%rsp),%rax\n  add -8(%rsp),%rax\n"
        "  mov %rdx,%rsp\n  ret\n.size redzone_fault,.-redzone_fault\n");
CHECK(page_faults_leave_it_alone)
{
    for (int i = 0; i < 200; i++) {
        char *p = MAP(mmap(0, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        EQ(redzone_fault(p + 60 * PAGE + 64), 0x77 + 0x78); // also across a page boundary
        EQ(redzone_fault(p + 40 * PAGE), 0x77 + 0x78);
        OK(munmap(p, 64 * PAGE));
    }
}

// The system call keeps everything but RAX, RCX and R11, and the red zone.
long redzone_syscall(long rounds);
__asm__(".text\n.globl redzone_syscall\n.type redzone_syscall,@function\nredzone_syscall:\n"
        "  push %rbx; push %r12; push %r15\n  mov %rdi,%rbx\n"
        "1: movq $0x1234567,-8(%rsp)\n  movq $0x89abcde,-128(%rsp)\n"
        "  mov $0x12,%r12d; mov $0x15,%r15d; mov $0x8,%r8d; mov $0x9,%r9d; mov $0x10,%r10d; mov $0x77,%edi; mov $0x66,%esi; mov $0x55,%edx\n"
        "  movq %rbx,%xmm5\n"
        "  mov $24,%eax\n  syscall\n" // sched_yield
        "  test %rax,%rax; jnz 8f\n"
        "  cmpq $0x1234567,-8(%rsp); jne 8f; cmpq $0x89abcde,-128(%rsp); jne 8f\n"
        "  cmp $0x12,%r12; jne 8f; cmp $0x15,%r15; jne 8f; cmp $8,%r8; jne 8f; cmp $9,%r9; jne 8f; cmp $0x10,%r10; jne 8f\n"
        "  cmp $0x77,%rdi; jne 8f; cmp $0x66,%rsi; jne 8f; cmp $0x55,%rdx; jne 8f\n"
        "  movq %xmm5,%rax; cmp %rax,%rbx; jne 8f\n"
        "  dec %rbx\n  jnz 1b\n  xor %eax,%eax\n  jmp 9f\n8: mov $1,%eax\n"
        "9: pop %r15; pop %r12; pop %rbx\n  ret\n.size redzone_syscall,.-redzone_syscall\n");
static void *yielder(void *arg)
{
    (void)arg;
    return (void *)redzone_syscall(5000);
}
CHECK(system_calls_keep_registers)
{
    pthread_t t[3];
    void *r;
    for (int i = 0; i < 3; i++) EQ(pthread_create(&t[i], 0, yielder, 0), 0);
    for (int i = 0; i < 3; i++) {
        EQ(pthread_join(t[i], &r), 0);
        EQ(r, 0);
    }
}
