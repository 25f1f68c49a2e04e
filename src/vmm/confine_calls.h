/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The system calls that kelpie-vmm's threads may make when a guest runs: CONFINE_VCPU_CALLS and CONFINE_IO_CALLS, each
 * a list of X(name). ioctl is filtered by its request where a list of those follows.
 */
#ifndef KELPIE_VMM_CONFINE_CALLS_H
#define KELPIE_VMM_CONFINE_CALLS_H

/* A vCPU's thread: KVM_RUN, what devices do when the guest touches their registers, and, while it stands still, its share of
 * writing memory to a file. Queues are worked on by the I/O thread alone, for their kicks are event descriptors. */
#define CONFINE_VCPU_CALLS(X)                                                                      \
    X(clock_gettime)                                                                               \
    X(close)                                                                                       \
    X(epoll_ctl)                                                                                   \
    X(exit)                                                                                        \
    X(exit_group)                                                                                  \
    X(futex)                                                                                       \
    X(getpid)                                                                                      \
    X(gettid)                                                                                      \
    X(ioctl)                                                                                       \
    X(lseek)                                                                                       \
    X(madvise)                                                                                     \
    X(munmap)                                                                                      \
    X(pwrite64)                                                                                    \
    X(read)                                                                                        \
    X(restart_syscall)                                                                             \
    X(rt_sigprocmask)                                                                              \
    X(rt_sigreturn)                                                                                \
    X(rt_sigtimedwait)                                                                             \
    X(sendto)                                                                                      \
    X(shutdown)                                                                                    \
    X(tgkill)                                                                                      \
    X(write)

/* The I/O thread: devices, orders, saves. */
#define CONFINE_IO_CALLS(X)                                                                        \
    X(accept4)                                                                                     \
    X(brk)                                                                                         \
    X(clock_gettime)                                                                               \
    X(clock_nanosleep)                                                                             \
    X(close)                                                                                       \
    X(dup)                                                                                         \
    X(epoll_ctl)                                                                                   \
    X(epoll_pwait)                                                                                 \
    X(epoll_wait)                                                                                  \
    X(eventfd2)                                                                                    \
    X(exit)                                                                                        \
    X(exit_group)                                                                                  \
    X(fallocate)                                                                                   \
    X(fcntl)                                                                                       \
    X(fdatasync)                                                                                   \
    X(fstat)                                                                                       \
    X(fsync)                                                                                       \
    X(ftruncate)                                                                                   \
    X(futex)                                                                                       \
    X(getpid)                                                                                      \
    X(getrandom)                                                                                   \
    X(gettid)                                                                                      \
    X(ioctl)                                                                                       \
    X(lseek)                                                                                       \
    X(madvise)                                                                                     \
    X(mincore)                                                                                     \
    X(mmap)                                                                                        \
    X(mprotect)                                                                                    \
    X(munmap)                                                                                      \
    X(newfstatat)                                                                                  \
    X(pread64)                                                                                     \
    X(preadv)                                                                                      \
    X(pwrite64)                                                                                    \
    X(pwritev)                                                                                     \
    X(read)                                                                                        \
    X(readv)                                                                                       \
    X(recvfrom)                                                                                    \
    X(recvmsg)                                                                                     \
    X(restart_syscall)                                                                             \
    X(rt_sigprocmask)                                                                              \
    X(rt_sigreturn)                                                                                \
    X(sendmsg)                                                                                     \
    X(sendto)                                                                                      \
    X(shutdown)                                                                                    \
    X(tgkill)                                                                                      \
    X(write)                                                                                       \
    X(writev)

#define CONFINE_VCPU_COUNT_MAX 27
#define CONFINE_IO_COUNT_MAX 50

#endif
