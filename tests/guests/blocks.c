// Disks as files: blocks DATA ROOT ROOTPART OTHERPART. DATA may be written, ROOT holds the root on ROOTPART.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(x) do { if (!(x)) { printf("line %d: %s (errno %d: %s)\n", __LINE__, #x, errno, strerror(errno)); exit(1); } } while (0)
#define FAILS(x, e) do { errno = 0; CHECK((x) == -1 && errno == (e)); } while (0)

static uint64_t seed = 88172645463325252ull;
static uint64_t next(void) { seed ^= seed << 13; seed ^= seed >> 7; seed ^= seed << 17; return seed; }

static int has_line(const char *path, const char *word) {
    static char text[8192];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, word) != NULL;
}

enum { SPAN = 3 << 20 };
static unsigned char model[SPAN], got[SPAN], piece[700000];

static void writes(const char *path) {
    int fd = open(path, O_RDWR | O_DIRECT | O_EXCL);
    CHECK(fd >= 0);
    struct stat st;
    CHECK(fstat(fd, &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev != 0);
    uint64_t size = 0;
    unsigned long sectors = 0;
    int block = 0, physical = 0, read_only = 7;
    CHECK(ioctl(fd, BLKGETSIZE64, &size) == 0 && size >= SPAN);
    CHECK(ioctl(fd, BLKGETSIZE, &sectors) == 0 && sectors == size / 512);
    CHECK(ioctl(fd, BLKSSZGET, &block) == 0 && block == 512);
    CHECK(ioctl(fd, BLKPBSZGET, &physical) == 0 && physical >= block);
    CHECK(ioctl(fd, BLKROGET, &read_only) == 0 && read_only == 0);
    FAILS(ioctl(fd, 0x12ff, 0), ENOTTY);
    CHECK(lseek(fd, 0, SEEK_END) == (off_t)size && lseek(fd, -512, SEEK_CUR) == (off_t)size - 512);
    FAILS(lseek(fd, 1, SEEK_END), EINVAL);

    CHECK(pread(fd, model, SPAN, 0) == SPAN);
    for (int round = 0; round < 300; round++) {
        size_t at = next() % SPAN, most = round % 10 ? 3000 : sizeof piece;
        if (round % 3 == 0) at &= ~511ul;
        size_t len = 1 + next() % most;
        if (round % 3 == 0) len = (len + 511) & ~511ul;
        if (at + len > SPAN) len = SPAN - at;
        for (size_t i = 0; i < len; i++) piece[i] = next();
        CHECK(pwrite(fd, piece, len, at) == (ssize_t)len);
        memcpy(model + at, piece, len);
        at = next() % SPAN;
        len = 1 + next() % 5000;
        if (at + len > SPAN) len = SPAN - at;
        CHECK(pread(fd, got, len, at) == (ssize_t)len && memcmp(got, model + at, len) == 0);
    }
    CHECK(pread(fd, got, SPAN, 0) == SPAN && memcmp(got, model, SPAN) == 0);
    CHECK(pwrite(fd, "xyz", 3, size - 2) == 2);
    FAILS(pwrite(fd, "x", 1, size), ENOSPC);
    CHECK(pread(fd, piece, 100, size) == 0 && pread(fd, piece, 100, size - 2) == 2 && memcmp(piece, "xy", 2) == 0);
    FAILS(pread(fd, (void *)8, 100, 0), EFAULT);
    FAILS(pwrite(fd, (void *)8, 100, 0), EFAULT);
    CHECK(fsync(fd) == 0 && fdatasync(fd) == 0 && ioctl(fd, BLKFLSBUF, 0) == 0);
    uint64_t range[2] = {1 << 20, 4096}, outside[2] = {size, 4096};
    CHECK(ioctl(fd, BLKDISCARD, range) == 0 || errno == EOPNOTSUPP);
    FAILS(ioctl(fd, BLKDISCARD, outside), EINVAL);
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENODEV);
    CHECK(close(fd) == 0);
    fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    FAILS(write(fd, "x", 1), EBADF);
    FAILS(ioctl(fd, BLKDISCARD, range), EBADF);
    CHECK(read(fd, got, 4096) == 4096 && memcmp(got, model, 4096) == 0);
    close(fd);
}

static int refused(int result) { return result == -1 && (errno == EBUSY || errno == EROFS); }

int main(int argc, char **argv) {
    CHECK(argc == 5);
    char path[64];
    for (int i = 1; i < 5; i++) {
        CHECK(has_line("/proc/partitions", argv[i]));
        snprintf(path, sizeof path, "/sys/class/block/%s/uevent", argv[i]);
        CHECK(has_line(path, argv[i]));
    }
    snprintf(path, sizeof path, "/dev/%s", argv[1]);
    writes(path);
    for (int i = 2; i < 4; i++) {
        snprintf(path, sizeof path, "/dev/%s", argv[i]);
        CHECK(refused(open(path, O_WRONLY)));
        CHECK(refused(open(path, O_RDWR)));
        FAILS(open(path, O_RDONLY | O_EXCL), EBUSY);
    }
    int root = open(path, O_RDONLY);
    unsigned magic = 0;
    CHECK(root >= 0 && pread(root, &magic, 4, 1024) == 4 && magic == 0xe0f5e1e2);

    unsigned long start = 0;
    snprintf(path, sizeof path, "/sys/block/%s/%s/start", argv[2], argv[4]);
    FILE *f = fopen(path, "r");
    CHECK(f && fscanf(f, "%lu", &start) == 1 && start > 0);
    snprintf(path, sizeof path, "/dev/%s", argv[2]);
    int disk = open(path, O_RDONLY);
    snprintf(path, sizeof path, "/dev/%s", argv[4]);
    int part = open(path, O_RDONLY);
    CHECK(disk >= 0 && part >= 0);
    CHECK(pread(disk, got, 5000, start * 512 + 100) == 5000 && pread(part, piece, 5000, 100) == 5000);
    CHECK(memcmp(got, piece, 5000) == 0 && pread(part, piece, 512, 0) == 512 && piece[510] == 0x55 && piece[511] == 0xaa);
    puts("blocks: all right");
    return 0;
}
