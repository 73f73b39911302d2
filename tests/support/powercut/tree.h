/*
 * What every hook of recorder.c needs: which files belong to the tree, and how a record is written.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define REAL(name)                                                                \
    ({                                                                            \
        static __typeof__(&name) found;                                           \
        if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name);           \
        found;                                                                    \
    })

/* What every record begins with; then `names` bytes of names and `length` bytes of data. */
struct head {
    char op;
    uint8_t reserved[3];
    uint32_t names;
    uint64_t ino;    /* the file, or the directory, that the operation is about */
    uint64_t dir;    /* the directory of the (old) name */
    int64_t offset;  /* of data; a size; a mode; a rename's new directory; a mark's number */
    uint64_t length; /* bytes of data that follow */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* spans an operation and its record */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int log_fd = -1;
static dev_t device;

/* The inode numbers in the tree: open addressing; 0 is free, 1 was removed (no file has either). */
static uint64_t *known;
static size_t known_room, known_used;

static void die(const char *what) {
    dprintf(2, "powercut: %s: %s\n", what, strerror(errno));
    abort();
}

static size_t slot(uint64_t ino) {
    size_t at = (ino * 0x9E3779B97F4A7C15u) & (known_room - 1), grave = SIZE_MAX;
    for (; known[at] != ino; at = (at + 1) & (known_room - 1)) {
        if (known[at] == 1 && grave == SIZE_MAX) grave = at;
        if (known[at] == 0) return grave == SIZE_MAX ? at : grave;
    }
    return at;
}

static int is_known(uint64_t ino) { return known_room && known[slot(ino)] == ino; }

static void learn(uint64_t ino) {
    if (2 * known_used >= known_room) {
        uint64_t *old = known;
        size_t room = known_room;
        known_room = room ? 2 * room : 1024;
        known_used = 0;
        known = calloc(known_room, sizeof *known);
        if (!known) die("no memory");
        for (size_t i = 0; i < room; i++)
            if (old[i] > 1) known[slot(old[i])] = old[i], known_used++;
        free(old);
    }
    size_t at = slot(ino);
    if (known[at] == 0) known_used++;
    known[at] = ino;
}

static void forget(uint64_t ino) {
    if (is_known(ino)) known[slot(ino)] = 1;
}

static int visit(const char *path, const struct stat *seen, int kind, struct FTW *level) {
    (void)path, (void)kind, (void)level;
    if (seen->st_dev == device) learn(seen->st_ino);
    return 0;
}

/*
 * A signal handler that runs while its thread holds the lock must not wait for it: what it does
 * (CPython writes a byte into a pipe) goes past the recorder.
 */
static __thread volatile int inside;
static void hold(void) {
    inside++;
    pthread_mutex_lock(&lock);
}
static void release(void) {
    pthread_mutex_unlock(&lock);
    inside--;
}

static void start(void) {
    const char *tree = getenv("POWERCUT_DIRECTORY"), *path = getenv("POWERCUT_LOG");
    struct stat seen;
    if (!tree || !path) return;
    if (stat(tree, &seen) != 0) die(tree);
    device = seen.st_dev;
    if (nftw(tree, visit, 16, FTW_PHYS | FTW_MOUNT) != 0) die(tree);
    int fd = REAL(open)(path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) die(path);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 700); /* out of the way of code that counts on low ones */
    if (log_fd < 0) log_fd = fd;
    else REAL(close)(fd);
    pthread_atfork(hold, release, release);
}

static int on(void) {
    pthread_once(&once, start);
    return log_fd >= 0 && !inside;
}

__attribute__((constructor)) static void begin(void) { on(); }

/* ---- records; the lock is held ---- */

static void put(struct head head, const char *names, const void *data) {
    struct iovec parts[3] = {{&head, sizeof head},
                             {(void *)names, head.names},
                             {(void *)data, head.length}};
    ssize_t all = (ssize_t)(sizeof head + head.names + head.length);
    int before = errno;
    if (REAL(writev)(log_fd, parts, 3) != all) die("cannot write the log");
    errno = before;
}

static void put_file(char op, uint64_t ino, int64_t offset, const void *data, uint64_t length) {
    put((struct head){.op = op, .ino = ino, .offset = offset, .length = length}, NULL, data);
}

static void put_name(char op, uint64_t ino, uint64_t dir, const char *name, mode_t mode) {
    put((struct head){.op = op, .names = (uint32_t)strlen(name), .ino = ino, .dir = dir,
                      .offset = mode & 07777}, name, NULL);
}

static void put_strange(const char *what) {
    put((struct head){.op = '?', .names = (uint32_t)strlen(what)}, what, NULL);
}

/* ---- which file, which name ---- */

/* The inode number behind a descriptor if it is in the tree, else 0. */
static uint64_t behind(int fd) {
    struct stat seen;
    int before = errno;
    uint64_t ino = 0;
    if (fd >= 0 && fd != log_fd && fstat(fd, &seen) == 0 && seen.st_dev == device &&
        (S_ISREG(seen.st_mode) || S_ISDIR(seen.st_mode)) && is_known(seen.st_ino))
        ino = seen.st_ino;
    errno = before;
    return ino;
}

/* A name: the directory's inode number if that is in the tree, else 0, and the last component. */
struct name {
    uint64_t dir;
    char last[NAME_MAX + 1];
};

static struct name name_of(int at, const char *path) {
    struct name name = {0};
    char parent[PATH_MAX];
    struct stat seen;
    int before = errno;
    size_t length = path ? strlen(path) : 0;
    while (length > 1 && path[length - 1] == '/') length--;
    size_t cut = length;
    while (cut > 0 && path[cut - 1] != '/') cut--;
    if (length == 0 || length >= PATH_MAX || length - cut > NAME_MAX) return name;
    memcpy(parent, path, cut);
    if (cut == 0) parent[cut++] = '.';
    parent[cut] = 0;
    size_t from = length;
    while (from > 0 && path[from - 1] != '/') from--;
    memcpy(name.last, path + from, length - from);
    if (fstatat(at, parent, &seen, 0) == 0 && seen.st_dev == device && is_known(seen.st_ino))
        name.dir = seen.st_ino;
    errno = before;
    return name;
}

/* What a path leads to: all zero where there is nothing, or not on the tree's device. */
static struct stat stat_at(int at, const char *path, int flags) {
    struct stat seen;
    int before = errno;
    if (fstatat(at, path, &seen, flags) != 0 || seen.st_dev != device) seen = (struct stat){0};
    errno = before;
    return seen;
}

static uint64_t ino_at(int at, const char *path) {
    return stat_at(at, path, AT_SYMLINK_NOFOLLOW).st_ino;
}

/* ---- shared mappings that can be written through; the lock is held ---- */

static struct mapping {
    char *at;
    size_t length;
    off_t offset;
    uint64_t ino;
} *mappings;
static size_t mappings_used, mappings_room;

static void remember(char *at, size_t length, off_t offset, uint64_t ino) {
    if (mappings_used == mappings_room) {
        mappings_room = mappings_room ? 2 * mappings_room : 16;
        mappings = realloc(mappings, mappings_room * sizeof *mappings);
        if (!mappings) die("no memory");
    }
    mappings[mappings_used].at = at;
    mappings[mappings_used].length = length;
    mappings[mappings_used].offset = offset;
    mappings[mappings_used++].ino = ino;
}

static struct mapping *mapped(const char *at, size_t length) {
    for (size_t i = 0; i < mappings_used; i++)
        if (at >= mappings[i].at && at + length <= mappings[i].at + mappings[i].length) return &mappings[i];
    return NULL;
}

/* Record the mapped pages that exist; the reader cuts them off at the end of the file. */
static void put_pages(char op, const struct mapping *one, const char *at, size_t length) {
    unsigned char resident;
    off_t offset = one->offset + (at - one->at);
    for (size_t done = 0; done < length; done += 4096) {
        size_t part = length - done < 4096 ? length - done : 4096;
        if (mincore((void *)(at + done), part, &resident) == 0 && (resident & 1))
            put_file(op, one->ino, offset + (off_t)done, at + done, part);
    }
}
