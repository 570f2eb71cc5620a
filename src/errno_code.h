/* What a program exits with when the system refuses something. */
#ifndef VAECF_ERRNO_CODE_H
#define VAECF_ERRNO_CODE_H

#include <errno.h>
#include <sysexits.h>

/* EX_IOERR for a disk that is full or broken, EX_OSERR if the machine has run out of memory or of files that
 * may be open; `otherwise` for all that depends on what was asked for (EX_NOINPUT, EX_CANTCREAT, ...). */
static inline int errno_code(int number, int otherwise) {
    switch (number) {
    case EIO:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ESTALE: /* a server of files that has lost it */
        return EX_IOERR;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        return EX_OSERR;
    default:
        return otherwise;
    }
}

#endif
