/* A library to preload that lets one call of a program fail: the N-th of its kind. For x86-64 Linux; loop.sh
 * uses it. By environment variables:
 *
 * FAULT_KIND: malloc (calls of the program itself and of libyaml, libz, libzstd, liblzma, libbz2); or a
 * system call about a file below FAULT_PREFIX: open, read, write, fsync, rename, close, mkdir, unlink, list
 * (a directory), truncate; or record, which fails nothing: it copies each file that is renamed to
 *     FAULT_RECORD/RANK-1, RANK-2, ... and writes how many calls of each kind there were to
 *     FAULT_RECORD/counts-RANK
 * FAULT_N: which call, from 1
 * FAULT_ERROR: EIO, ENOSPC, ENOMEM, EINTR, EMFILE; short: half of the bytes; with a + (ENOSPC+): and all
 *     later calls
 * FAULT_PREFIX: an absolute path without symbolic links
 * FAULT_RANK: the MPI rank that it happens on (0)
 * FAULT_FIRED: a file outside of the prefix that tells, once it has happened: the call and its path, then the
 *     callers as offsets into the program, for addr2line
 *
 * malloc and its kin are interposed. System calls are trapped by a seccomp filter: stdio's and HDF5's do not
 * pass through symbols that could be. The filter traps those made from libc's text as it is mapped here; so
 * it neither catches this library's own, nor those of a program that is executed later, which has libc
 * elsewhere. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <link.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "faults.c is for x86-64"
#endif

enum kind { NONE, MALLOC, OPEN, READ, WRITE, FSYNC, RENAME, CLOSE, MKDIR, UNLINK, LIST, TRUNCATE, RECORD };
static const char *const kind_name[] = {"",      "malloc", "open",   "read", "write",    "fsync", "rename",
                                        "close", "mkdir",  "unlink", "list", "truncate", "record"};

static const struct {
    int number;
    enum kind kind;
    int path; /* which argument is a path (0, 1), or -1: the first one is a file */
    int at;   /* which argument is the directory of the path, or -1 */
} call_kind[] = {
    {SYS_open, OPEN, 0, -1},           {SYS_openat, OPEN, 1, 0},          {SYS_creat, OPEN, 0, -1},
    {SYS_read, READ, -1, -1},          {SYS_pread64, READ, -1, -1},       {SYS_readv, READ, -1, -1},
    {SYS_write, WRITE, -1, -1},        {SYS_pwrite64, WRITE, -1, -1},     {SYS_writev, WRITE, -1, -1},
    {SYS_fsync, FSYNC, -1, -1},        {SYS_fdatasync, FSYNC, -1, -1},    {SYS_rename, RENAME, 0, -1},
    {SYS_renameat, RENAME, 1, 0},      {SYS_renameat2, RENAME, 1, 0},     {SYS_close, CLOSE, -1, -1},
    {SYS_mkdir, MKDIR, 0, -1},         {SYS_mkdirat, MKDIR, 1, 0},        {SYS_unlink, UNLINK, 0, -1},
    {SYS_unlinkat, UNLINK, 1, 0},      {SYS_rmdir, UNLINK, 0, -1},        {SYS_getdents64, LIST, -1, -1},
    {SYS_ftruncate, TRUNCATE, -1, -1}, {SYS_fallocate, TRUNCATE, -1, -1},
};
enum { N_CALLS = sizeof call_kind / sizeof call_kind[0], RANGES_MAX = 8, DEPTH_MAX = 40 };

static struct {
    enum kind kind;
    int rank;
    long n;
    int error; /* 0: short */
    int lasts; /* all later calls fail as well */
    char prefix[PATH_MAX], fired[PATH_MAX], record[PATH_MAX];
    struct {
        uintptr_t begin, end;
    } text[RANGES_MAX]; /* whose allocations count; the program's first */
    int n_texts;
    uintptr_t base, libc_begin, libc_end;
} fault;
static atomic_long calls, records, count[RECORD];
static atomic_int is_told;

/* ---- telling ---- */

static long raw(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static long raw_open(const char *path, int flags) {
    return raw(SYS_openat, AT_FDCWD, (long)path, flags, 0666, 0, 0);
}

/* Writes the one line of FAULT_FIRED, once. */
static void tell(const char *path) {
    char line[PATH_MAX + 1024];
    void *caller[DEPTH_MAX];
    if (atomic_exchange(&is_told, 1) || !fault.fired[0]) return;
    int used = snprintf(line, sizeof line, "%s %s", kind_name[fault.kind], path);
    int depth = backtrace(caller, DEPTH_MAX);
    for (int i = 0; i < depth && used < (int)sizeof line - 32; i++) {
        uintptr_t at = (uintptr_t)caller[i];
        if (at < fault.text[0].begin || at >= fault.text[0].end) continue;
        used +=
            snprintf(line + used, sizeof line - (size_t)used, " 0x%lx", (unsigned long)(at - fault.base - 1));
    }
    line[used++] = '\n';
    long file = raw_open(fault.fired, O_WRONLY | O_CREAT | O_TRUNC);
    raw(SYS_write, file, (long)line, used, 0, 0, 0);
    raw(SYS_close, file, 0, 0, 0, 0, 0);
}

/* Counts a call: is it to fail? */
static int is_due(const char *path) {
    long n = atomic_fetch_add(&calls, 1) + 1;
    if (n < fault.n || (n > fault.n && !fault.lasts)) return 0;
    tell(path);
    return 1;
}

/* ---- allocations ---- */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

/* MPI's start uses libz too, for itself. */
static atomic_int is_inside_mpi;

static int is_in_main;

static int refuse(void *caller) {
    uintptr_t at = (uintptr_t)caller;
    if ((fault.kind != MALLOC && fault.kind != RECORD) || is_inside_mpi || !is_in_main) return 0;
    for (int i = 0; i < fault.n_texts; i++) {
        if (at < fault.text[i].begin || at >= fault.text[i].end) continue;
        if (fault.kind == RECORD) return atomic_fetch_add(&count[MALLOC], 1) < 0;
        if (!is_due(i ? "(library)" : "(program)")) return 0;
        errno = fault.error;
        return 1;
    }
    return 0;
}

void *malloc(size_t size) {
    return refuse(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}
void *calloc(size_t n, size_t size) {
    return refuse(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}
void *realloc(void *old, size_t size) {
    return refuse(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
    return refuse(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}
int posix_memalign(void **result, size_t alignment, size_t size) {
    if (refuse(__builtin_return_address(0))) return ENOMEM;
    void *p = __libc_memalign(alignment, size);
    if (!p) return ENOMEM;
    *result = p;
    return 0;
}
/* libc allocates for these on the program's behalf. */
char *strndup(const char *text, size_t most) {
    size_t length = strnlen(text, most);
    char *copy = refuse(__builtin_return_address(0)) ? NULL : __libc_malloc(length + 1);
    if (!copy) return NULL;
    copy[length] = '\0';
    return memcpy(copy, text, length);
}
char *strdup(const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = refuse(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

int MPI_Init_thread(int *argc, char ***argv, int wanted, int *given) {
    int (*real)(int *, char ***, int, int *);
    *(void **)&real = dlsym(RTLD_NEXT, "MPI_Init_thread");
    is_inside_mpi = 1;
    int code = real(argc, argv, wanted, given);
    is_inside_mpi = 0;
    return code;
}

/* ---- system calls ---- */

/* A SIGSYS that comes while it is blocked ends the process; the watchdog's thread blocks all signals. */
static int mask(const char *name, int how, const sigset_t *set, sigset_t *old) {
    int (*real)(int, const sigset_t *, sigset_t *);
    *(void **)&real = dlsym(RTLD_NEXT, name);
    if (!set || how == SIG_UNBLOCK) return real(how, set, old);
    sigset_t without = *set;
    sigdelset(&without, SIGSYS);
    return real(how, &without, old);
}
int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
    return mask("pthread_sigmask", how, set, old);
}
int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
    return mask("sigprocmask", how, set, old);
}

static int is_below(const char *path) {
    size_t length = strlen(fault.prefix);
    return strncmp(path, fault.prefix, length) == 0 && (path[length] == '/' || !path[length]);
}

static int link_text(const char *link, char text[PATH_MAX]) {
    long n = raw(SYS_readlink, (long)link, (long)text, PATH_MAX - 1, 0, 0, 0);
    text[n > 0 ? n : 0] = '\0';
    return n > 0;
}

static int file_path(long file, char path[PATH_MAX]) {
    char link[64];
    if (file < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%ld", file);
    return link_text(link, path);
}

/* The file that a call is about, if it is below the prefix. */
static int find_path(int i, const long *argument, char path[PATH_MAX]) {
    if (call_kind[i].path < 0) return file_path(argument[0], path) && is_below(path);
    const char *given = (const char *)argument[call_kind[i].path];
    if (!given) return 0;
    if (given[0] == '/') {
        snprintf(path, PATH_MAX, "%s", given);
        return is_below(path);
    }
    long at = call_kind[i].at < 0 ? AT_FDCWD : (int)argument[call_kind[i].at];
    if (!(at == AT_FDCWD ? link_text("/proc/self/cwd", path) : file_path(at, path)) || !is_below(path))
        return 0;
    size_t used = strlen(path);
    snprintf(path + used, PATH_MAX - used, "/%s", given);
    return 1;
}

/* Half of what is asked for, at least a byte; a call of several pieces gets its first one. */
static long do_short(long number, const long a[6]) {
    struct iovec piece;
    if (number == SYS_readv || number == SYS_writev) {
        long i = 0;
        const struct iovec *pieces = (const struct iovec *)a[1];
        while (i < a[2] - 1 && !pieces[i].iov_len) i++;
        piece = pieces[i];
        if (piece.iov_len > 1) piece.iov_len /= 2;
        return raw(number, a[0], (long)&piece, 1, 0, 0, 0);
    }
    return raw(number, a[0], a[1], a[2] > 1 ? a[2] / 2 : a[2], a[3], a[4], a[5]);
}

static void copy_file(const char *from, const char *to) {
    char buffer[8192];
    long in = raw_open(from, O_RDONLY), out = raw_open(to, O_WRONLY | O_CREAT | O_TRUNC);
    for (long n; in >= 0 && out >= 0 && (n = raw(SYS_read, in, (long)buffer, sizeof buffer, 0, 0, 0)) > 0;) {
        raw(SYS_write, out, (long)buffer, n, 0, 0, 0);
    }
    if (in >= 0) raw(SYS_close, in, 0, 0, 0, 0, 0);
    if (out >= 0) raw(SYS_close, out, 0, 0, 0, 0, 0);
}

static long perform(long number, const long a[6]) {
    char path[PATH_MAX], copy[PATH_MAX + 32];
    int i = 0;
    while (i < N_CALLS && call_kind[i].number != number) i++;
    if (i < N_CALLS && fault.kind == RECORD && find_path(i, a, path)) {
        atomic_fetch_add(&count[call_kind[i].kind], 1);
        snprintf(copy, sizeof copy, "%s/%d-%ld", fault.record, fault.rank, atomic_load(&records) + 1);
        if (call_kind[i].kind == RENAME) copy_file(path, copy), atomic_fetch_add(&records, 1);
    }
    if (i < N_CALLS && call_kind[i].kind == fault.kind && find_path(i, a, path) && is_due(path)) {
        if (!fault.error) return do_short(number, a);
        if (fault.kind == CLOSE) raw(number, a[0], 0, 0, 0, 0, 0); /* it is closed even so */
        return -fault.error;
    }
    return raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void on_trap(int signal, siginfo_t *info, void *context) {
    (void)signal;
    int before = errno;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    long argument[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    r[REG_RAX] = perform(info->si_syscall, argument);
    errno = before;
}

static int install(void) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    struct sock_filter filter[16 + N_CALLS];
    unsigned n = 0, ip = offsetof(struct seccomp_data, instruction_pointer);
    uint32_t begin = (uint32_t)fault.libc_begin, end = (uint32_t)fault.libc_end;
    /* the jumps to "allow" are set below, when it is known how far that is */
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 255);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip + 4);
    filter[n++] =
        (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(fault.libc_begin >> 32), 0, 255);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip);
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, begin, 0, 255);
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, end, 255, 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    unsigned first = n;
    for (int i = 0; i < N_CALLS; i++) {
        if (call_kind[i].kind != fault.kind && fault.kind != RECORD) continue;
        filter[n++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call_kind[i].number, 0, 0);
    }
    unsigned allow = n, trap = n + 1;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    for (unsigned i = 0; i < allow; i++) {
        if (i >= first) filter[i].jt = (uint8_t)(trap - i - 1);
        if (filter[i].jt == 255) filter[i].jt = (uint8_t)(allow - i - 1);
        if (filter[i].jf == 255) filter[i].jf = (uint8_t)(allow - i - 1);
    }
    struct sock_fprog program = {.len = (unsigned short)n, .filter = filter};
    if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* ---- starting ---- */

static void add_text(const struct dl_phdr_info *info) {
    for (int i = 0; i < info->dlpi_phnum && fault.n_texts < RANGES_MAX; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X)) continue;
        fault.text[fault.n_texts].begin = info->dlpi_addr + p->p_vaddr;
        fault.text[fault.n_texts++].end = info->dlpi_addr + p->p_vaddr + p->p_memsz;
    }
}

static int look(struct dl_phdr_info *info, size_t size, void *first) {
    (void)size;
    const char *name = strrchr(info->dlpi_name, '/');
    name = name ? name + 1 : info->dlpi_name;
    if (*(int *)first) {
        fault.base = info->dlpi_addr;
        add_text(info);
        *(int *)first = 0;
    } else if (strncmp(name, "libyaml", 7) == 0 || strncmp(name, "libz.", 5) == 0 ||
               strncmp(name, "libzstd", 7) == 0 || strncmp(name, "liblzma", 7) == 0 ||
               strncmp(name, "libbz2", 6) == 0) {
        add_text(info);
    } else if (strncmp(name, "libc.so", 7) == 0) {
        for (int i = 0; i < info->dlpi_phnum; i++) {
            const ElfW(Phdr) *p = &info->dlpi_phdr[i];
            if (p->p_type != PT_LOAD || !(p->p_flags & PF_X)) continue;
            fault.libc_begin = info->dlpi_addr + p->p_vaddr;
            fault.libc_end = fault.libc_begin + p->p_memsz;
        }
    }
    return 0;
}

static const char *variable(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

static int error_number(const char *name, int *lasts) {
    static const struct {
        const char *name;
        int number;
    } errors[] = {{"EIO", EIO},     {"ENOSPC", ENOSPC}, {"ENOMEM", ENOMEM},
                  {"EINTR", EINTR}, {"EMFILE", EMFILE}, {"short", 0}};
    size_t length = strcspn(name, "+");
    *lasts = name[length] == '+';
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (strlen(errors[i].name) == length && strncmp(name, errors[i].name, length) == 0)
            return errors[i].number;
    }
    return -1;
}

static void give_up(const char *why) {
    dprintf(STDERR_FILENO, "faults.so: %s\n", why);
    _exit(119);
}

__attribute__((destructor)) static void end(void) {
    char name[PATH_MAX + 32], line[32];
    if (fault.kind != RECORD) return;
    snprintf(name, sizeof name, "%s/counts-%d", fault.record, fault.rank);
    long file = raw_open(name, O_WRONLY | O_CREAT | O_TRUNC);
    for (int k = MALLOC; k < RECORD && file >= 0; k++) {
        int length = snprintf(line, sizeof line, "%s %ld\n", kind_name[k], atomic_load(&count[k]));
        raw(SYS_write, file, (long)line, length, 0, 0, 0);
    }
}

__attribute__((constructor)) static void start(int argc, char **argv, char **environment) {
    const char *kind = getenv("FAULT_KIND"),
               *rank = variable("OMPI_COMM_WORLD_RANK", variable("PMI_RANK", "0"));
    int first = 1, k = RECORD;
    void *unused[2];
    (void)argc;
    if (!kind || strncmp(program_invocation_short_name, "vaecf-", 6) != 0) return;
    while (k > 0 && strcmp(kind, kind_name[k]) != 0) k--;
    fault.rank = atoi(rank);
    if (k != RECORD && fault.rank != atoi(variable("FAULT_RANK", "0"))) return;
    fault.n = atol(variable("FAULT_N", "0"));
    fault.error = error_number(variable("FAULT_ERROR", "EIO"), &fault.lasts);
    snprintf(fault.prefix, sizeof fault.prefix, "%s", variable("FAULT_PREFIX", "/nowhere"));
    snprintf(fault.fired, sizeof fault.fired, "%s", variable("FAULT_FIRED", ""));
    snprintf(fault.record, sizeof fault.record, "%s", variable("FAULT_RECORD", ""));
    if (k == NONE || fault.error < 0) give_up("unknown FAULT_KIND or FAULT_ERROR");
    dl_iterate_phdr(look, &first);
    if (fault.libc_begin >> 32 !=
        fault.libc_end >> 32) { /* for the filter; one start in thousands: elsewhere */
        execve("/proc/self/exe", argv, environment);
        give_up("cannot start again");
    }
    backtrace(unused, 2); /* loads what it takes */
    fault.kind = (enum kind)k;
    if (k == MALLOC) {
        if (!fault.error) give_up("malloc cannot be short");
    } else if (install()) {
        give_up("this kernel refuses the filter");
    }
}

/* What comes before main, such as the CUDA runtime's constructors, is not the program's. */

static int (*program_main)(int, char **, char **);

static int begin_main(int argc, char **argv, char **environment) {
    is_in_main = 1;
    return program_main(argc, argv, environment);
}

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*end_linker)(void), void *stack) {
    int (*start_main)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void),
                      void (*)(void), void *) = dlsym(RTLD_NEXT, "__libc_start_main");
    program_main = main;
    return start_main(begin_main, argc, argv, init, fini, end_linker, stack);
}
