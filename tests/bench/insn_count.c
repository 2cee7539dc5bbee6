// A plugin for QEMU's emulator that counts the guest's instructions while it runs.
//
// Two 64-bit numbers lie in a file that is mapped shared: instructions at addresses of the lower half (the program,
// and firmware) and of the upper half (the kernel). Whoever wants to know reads the file at any moment; a difference
// divided by the number of operations is instructions per operation, and hardly depends on how busy the machine is.
//
//   gcc -shared -fPIC -O2 -o insn_count.so insn_count.c
//   qemu-system-x86_64 -plugin ./insn_count.so,out=FILE ...
//
// The few functions of QEMU's plugin interface (version 1, as of QEMU 7.2) are declared here, since Debian ships no header.
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
enum { PLUGIN_OP_ADD_U64 = 0 };
struct qemu_plugin_tb;
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*translated)(uint64_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, int op, void *counter, uint64_t amount);

PUBLIC int qemu_plugin_version = 1;

static struct counters { uint64_t lower, upper; } *counters;

// Called once for each translated block: from then on the generated code itself adds the block's length.
static void on_translation(uint64_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    uint64_t *which = qemu_plugin_tb_vaddr(block) >> 63 ? &counters->upper : &counters->lower;
    qemu_plugin_register_vcpu_tb_exec_inline(block, PLUGIN_OP_ADD_U64, which, qemu_plugin_tb_n_insns(block));
}

PUBLIC int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    const char *path = NULL;
    for (int i = 0; i < argc; i++)
        if (strncmp(argv[i], "out=", 4) == 0) path = argv[i] + 4;
    if (!path) return 1;
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || ftruncate(file, sizeof *counters) != 0) return 1;
    counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (counters == MAP_FAILED) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
