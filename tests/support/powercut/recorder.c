/*
 * LD_PRELOAD: record, in order and with their data, the operations that change one directory tree.
 *
 *   POWERCUT_DIRECTORY  the tree; it must exist
 *   POWERCUT_LOG        where the records go, outside the tree
 *
 * Files are told apart by inode number and names by the inode number of their directory, so that
 * duplicated descriptors, renamed and unlinked files, relative paths and directory descriptors need
 * no bookkeeping. A number is free for another file only after the last name and the last descriptor
 * are gone, and a create record says that a new life of the number begins.
 *
 * One lock spans an operation and its record: the log is the order in which things happened. (Two
 * processes each have their own lock; between them the order is that of the records.)
 *
 * Stores through a shared mapping cannot be seen. What a mapping holds is recorded at msync and
 * munmap. An operation that cannot be replayed is recorded as '?', which the reader refuses.
 */
#include "tree.h"

/* ---- opening ---- */

static int opened(int at, const char *path, int flags, mode_t mode) {
    if (!on()) return REAL(openat)(at, path, flags, mode);
    hold();
    struct name name = name_of(at, path);
    uint64_t was = name.dir && (flags & (O_CREAT | O_TRUNC)) ? ino_at(at, path) : 0;
    int fd = REAL(openat)(at, path, flags, mode);
    struct stat seen;
    int before = errno;
    if (fd >= 0 && fstat(fd, &seen) == 0 && seen.st_dev == device) {
        if ((flags & O_TMPFILE) == O_TMPFILE) {
            if (is_known(ino_at(at, path))) put_strange("O_TMPFILE");
        } else if (name.dir) {
            learn(seen.st_ino);
            if ((flags & O_CREAT) && was == 0) put_name('C', seen.st_ino, name.dir, name.last, seen.st_mode);
            else if (flags & O_TRUNC) put_file('T', seen.st_ino, 0, NULL, 0);
        } else if ((flags & O_CREAT) && seen.st_size == 0) {
            forget(seen.st_ino); /* perhaps a number of ours, now used elsewhere */
        }
    }
    errno = before;
    release();
    return fd;
}

#define MODE(last)                            \
    mode_t mode = 0;                          \
    if (last & (O_CREAT | __O_TMPFILE)) {     \
        va_list more;                         \
        va_start(more, last);                 \
        mode = va_arg(more, mode_t);          \
        va_end(more);                         \
    }

EXPORT int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
EXPORT int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
EXPORT int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, mode); }
EXPORT int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, mode); }
EXPORT int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
EXPORT int creat64(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* ---- data ---- */

/* Run CALL, under the lock if FD is in the tree; then RECORD with `ino` and the result `done`. */
#define ON_FILE(type, fd, CALL, RECORD)               \
    ({                                                \
        type done = 0;                                \
        uint64_t ino = 0;                             \
        if (on()) {                                   \
            hold();                \
            if (!(ino = behind(fd))) release(); \
        }                                             \
        done = CALL;                                  \
        if (ino) {                                    \
            int before = errno;                       \
            RECORD;                                   \
            errno = before;                           \
            release();              \
        }                                             \
        done;                                         \
    })

/* Record what was written from several buffers. */
static void put_parts(uint64_t ino, off_t offset, const struct iovec *parts, size_t length) {
    for (; length > 0; parts++) {
        size_t part = parts->iov_len < length ? parts->iov_len : length;
        put_file('W', ino, offset, parts->iov_base, part);
        offset += (off_t)part;
        length -= part;
    }
}

/*
 * Read back what the kernel copied. Through a second descriptor, as ours may be for writing only;
 * closing that gives up the process' POSIX locks on the file, which no copying program has.
 */
static void put_range(uint64_t ino, int fd, off_t offset, size_t length) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int copy = REAL(openat)(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    char *data = malloc(length);
    if (!data || copy < 0 || pread(copy, data, length, offset) != (ssize_t)length) die("read back");
    put_file('W', ino, offset, data, length);
    free(data);
    REAL(close)(copy);
}

static void put_synced(uint64_t ino, int fd) {
    if (fcntl(fd, F_GETFL) & O_DSYNC) put_file('S', ino, 0, NULL, 0);
}

/* After a write at the descriptor's own place (with O_APPEND, too) that place is its end. */
static off_t place(int fd, ssize_t done) { return lseek(fd, 0, SEEK_CUR) - done; }

/* Linux appends in pwrite, too, where the file was opened with O_APPEND. */
static off_t place_given(int fd, off_t offset, ssize_t done) {
    return fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) - done : offset;
}

EXPORT ssize_t write(int fd, const void *data, size_t length) {
    return ON_FILE(ssize_t, fd, REAL(write)(fd, data, length), if (done > 0) {
        put_file('W', ino, place(fd, done), data, (uint64_t)done);
        put_synced(ino, fd);
    });
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return ON_FILE(ssize_t, fd, REAL(pwrite)(fd, data, length, offset), if (done > 0) {
        put_file('W', ino, place_given(fd, offset, done), data, (uint64_t)done);
        put_synced(ino, fd);
    });
}
EXPORT ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return pwrite(fd, data, length, offset);
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    return ON_FILE(ssize_t, fd, REAL(writev)(fd, parts, count), if (done > 0) {
        put_parts(ino, place(fd, done), parts, (size_t)done);
        put_synced(ino, fd);
    });
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return ON_FILE(ssize_t, fd, REAL(pwritev)(fd, parts, count, offset), if (done > 0) {
        put_parts(ino, place_given(fd, offset, done), parts, (size_t)done);
        put_synced(ino, fd);
    });
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return pwritev(fd, parts, count, offset);
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return ON_FILE(ssize_t, fd, REAL(pwritev2)(fd, parts, count, offset, flags), if (done > 0) {
        off_t from = offset == -1 ? place(fd, done) : place_given(fd, offset, done);
        put_parts(ino, from, parts, (size_t)done);
        if (flags & (RWF_DSYNC | RWF_SYNC)) put_file('S', ino, 0, NULL, 0);
        put_synced(ino, fd);
    });
}
EXPORT ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    return pwritev2(fd, parts, count, offset, flags);
}

EXPORT ssize_t sendfile(int to, int from, off_t *offset, size_t length) {
    return ON_FILE(ssize_t, to, REAL(sendfile)(to, from, offset, length), if (done > 0) {
        put_range(ino, to, place(to, done), (size_t)done);
        put_synced(ino, to);
    });
}
EXPORT ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) {
    return sendfile(to, from, offset, length);
}

EXPORT ssize_t copy_file_range(int from, off64_t *start, int to, off64_t *at, size_t length, unsigned flags) {
    return ON_FILE(ssize_t, to, REAL(copy_file_range)(from, start, to, at, length, flags), if (done > 0) {
        put_range(ino, to, at ? *at - done : place(to, done), (size_t)done);
        put_synced(ino, to);
    });
}

EXPORT int ftruncate(int fd, off_t size) {
    return ON_FILE(int, fd, REAL(ftruncate)(fd, size), if (done == 0) put_file('T', ino, size, NULL, 0));
}
EXPORT int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

EXPORT int truncate(const char *path, off_t size) {
    if (!on()) return REAL(truncate)(path, size);
    hold();
    uint64_t ino = stat_at(AT_FDCWD, path, 0).st_ino;
    int done = REAL(truncate)(path, size);
    if (done == 0 && is_known(ino)) put_file('T', ino, size, NULL, 0);
    release();
    return done;
}
EXPORT int truncate64(const char *path, off64_t size) { return truncate(path, size); }

static void put_allocated(uint64_t ino, int mode, off_t end) {
    if (mode == 0) put_file('A', ino, end, NULL, 0);
    else if (mode != FALLOC_FL_KEEP_SIZE) put_strange("fallocate with a mode");
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
    return ON_FILE(int, fd, REAL(fallocate)(fd, mode, offset, length),
                   if (done == 0) put_allocated(ino, mode, offset + length));
}
EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    return fallocate(fd, mode, offset, length);
}
EXPORT int posix_fallocate(int fd, off_t offset, off_t length) {
    return ON_FILE(int, fd, REAL(posix_fallocate)(fd, offset, length),
                   if (done == 0) put_allocated(ino, 0, offset + length));
}
EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    return posix_fallocate(fd, offset, length);
}

/* ---- durability ---- */

EXPORT int fsync(int fd) {
    return ON_FILE(int, fd, REAL(fsync)(fd), if (done == 0) put_file('S', ino, 0, NULL, 0));
}
EXPORT int fdatasync(int fd) {
    return ON_FILE(int, fd, REAL(fdatasync)(fd), if (done == 0) put_file('S', ino, 0, NULL, 0));
}
EXPORT int syncfs(int fd) {
    return ON_FILE(int, fd, REAL(syncfs)(fd), if (done == 0) put_file('Y', ino, 0, NULL, 0));
}
EXPORT void sync(void) {
    if (!on()) { REAL(sync)(); return; }
    hold();
    REAL(sync)();
    put_file('Y', 0, 0, NULL, 0);
    release();
}
/* It starts write-back and waits for it, but flushes no disk cache and writes no size: no promise. */
EXPORT int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
    return ON_FILE(int, fd, REAL(sync_file_range)(fd, offset, length, flags),
                   if (done == 0) put_file('R', ino, offset, NULL, 0));
}

/* ---- shared mappings ---- */

EXPORT void *mmap(void *want, size_t length, int prot, int flags, int fd, off_t offset) {
    if (!(prot & PROT_WRITE) || !(flags & MAP_SHARED) || fd < 0)
        return REAL(mmap)(want, length, prot, flags, fd, offset);
    return ON_FILE(void *, fd, REAL(mmap)(want, length, prot, flags, fd, offset),
                   if (done != MAP_FAILED) remember(done, length, offset, ino));
}
EXPORT void *mmap64(void *want, size_t length, int prot, int flags, int fd, off64_t offset) {
    return mmap(want, length, prot, flags, fd, offset);
}

EXPORT int msync(void *at, size_t length, int flags) {
    if (!on()) return REAL(msync)(at, length, flags);
    hold();
    int done = REAL(msync)(at, length, flags);
    const struct mapping *one = mapped(at, length);
    if (done == 0 && one) put_pages(flags & MS_SYNC ? 'P' : 'p', one, at, length);
    release();
    return done;
}

EXPORT int munmap(void *at, size_t length) {
    if (!on()) return REAL(munmap)(at, length);
    hold();
    struct mapping *one = mapped(at, length);
    if (one) {
        put_pages('p', one, at, length);
        if (length == one->length) *one = mappings[--mappings_used];
    }
    int done = REAL(munmap)(at, length);
    release();
    return done;
}

/* ---- names ---- */

static int renamed(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    if (!on()) return REAL(renameat2)(from_at, from, to_at, to, flags);
    hold();
    struct name old = name_of(from_at, from), new = name_of(to_at, to);
    uint64_t ino = ino_at(from_at, from);
    int done = flags ? REAL(renameat2)(from_at, from, to_at, to, flags)
                     : REAL(renameat)(from_at, from, to_at, to);
    if (done == 0 && (old.dir || new.dir)) {
        char names[2 * NAME_MAX + 2];
        size_t first = strlen(old.last);
        memcpy(names, old.last, first + 1);
        strcpy(names + first + 1, new.last);
        if (!is_known(ino) || flags & ~(unsigned)RENAME_NOREPLACE) put_strange("a rename into the tree, or with flags");
        put((struct head){.op = 'N', .names = (uint32_t)(first + 1 + strlen(new.last)), .ino = ino,
                          .dir = old.dir, .offset = (int64_t)new.dir}, names, NULL);
    }
    release();
    return done;
}

EXPORT int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
EXPORT int renameat(int from_at, const char *from, int to_at, const char *to) { return renamed(from_at, from, to_at, to, 0); }
EXPORT int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) { return renamed(from_at, from, to_at, to, flags); }

/* Run CALL on a name; where that lies in the tree, then RECORD with `name` and `done`. */
#define ON_NAME(at, path, CALL, RECORD)               \
    ({                                                \
        int done;                                     \
        if (on()) {                                   \
            hold();                \
            struct name name = name_of(at, path);     \
            uint64_t was = name.dir ? ino_at(at, path) : 0; \
            (void)was;                                \
            done = CALL;                              \
            if (done == 0 && name.dir) { RECORD; }    \
            release();              \
        } else done = CALL;                           \
        done;                                         \
    })

EXPORT int unlinkat(int at, const char *path, int flags) {
    return ON_NAME(at, path, REAL(unlinkat)(at, path, flags), put_name('U', was, name.dir, name.last, 0));
}
EXPORT int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
EXPORT int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
EXPORT int remove(const char *path) {
    int done = unlinkat(AT_FDCWD, path, 0);
    return done != 0 && errno == EISDIR ? rmdir(path) : done;
}

EXPORT int mkdirat(int at, const char *path, mode_t mode) {
    return ON_NAME(at, path, REAL(mkdirat)(at, path, mode), {
        struct stat made = stat_at(at, path, AT_SYMLINK_NOFOLLOW);
        learn(made.st_ino);
        put_name('D', made.st_ino, name.dir, name.last, made.st_mode);
    });
}
EXPORT int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

EXPORT int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    return ON_NAME(to_at, to, REAL(linkat)(from_at, from, to_at, to, flags), {
        uint64_t ino = ino_at(to_at, to);
        if (!is_known(ino)) put_strange("a link into the tree");
        put_name('L', ino, name.dir, name.last, 0);
    });
}
EXPORT int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

EXPORT int symlinkat(const char *target, int at, const char *path) {
    return ON_NAME(at, path, REAL(symlinkat)(target, at, path), put_strange("a symbolic link"));
}
EXPORT int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

EXPORT int fchmod(int fd, mode_t mode) {
    return ON_FILE(int, fd, REAL(fchmod)(fd, mode), if (done == 0) put_file('H', ino, mode & 07777, NULL, 0));
}
EXPORT int fchmodat(int at, const char *path, mode_t mode, int flags) {
    if (!on()) return REAL(fchmodat)(at, path, mode, flags);
    hold();
    uint64_t ino = stat_at(at, path, 0).st_ino;
    int done = REAL(fchmodat)(at, path, mode, flags);
    if (done == 0 && is_known(ino)) put_file('H', ino, mode & 07777, NULL, 0);
    release();
    return done;
}
EXPORT int chmod(const char *path, mode_t mode) { return fchmodat(AT_FDCWD, path, mode, 0); }

/* ---- marks ---- */

/* Note that the application made a promise: `name` holds for `number` from here on. */
EXPORT void powercut_mark(const char *name, int64_t number) {
    if (!on()) return;
    hold();
    put((struct head){.op = 'M', .names = (uint32_t)strlen(name), .offset = number}, name, NULL);
    release();
}
