/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The system calls that kelpie-krun may not make when it has its machine (confine.h): a list of X(name). Threads are told from
 * processes by the flags of clone; clone3, whose flags no filter can see, is one that this kernel does not have.
 */
#ifndef KELPIE_KRUN_CONFINE_CALLS_H
#define KELPIE_KRUN_CONFINE_CALLS_H

#define KRUN_DENIED_CALLS(X)                                                                       \
    /* programs and processes */                                                                   \
    X(execve)                                                                                      \
    X(execveat)                                                                                    \
    X(fork)                                                                                        \
    X(vfork)                                                                                       \
    X(kill)                                                                                        \
    X(tkill)                                                                                       \
    X(rt_sigqueueinfo)                                                                             \
    X(rt_tgsigqueueinfo)                                                                           \
    X(pidfd_open)                                                                                  \
    X(pidfd_getfd)                                                                                 \
    X(pidfd_send_signal)                                                                           \
    X(ptrace)                                                                                      \
    X(process_vm_readv)                                                                            \
    X(process_vm_writev)                                                                           \
    X(kcmp)                                                                                        \
    X(setns)                                                                                       \
    X(unshare)                                                                                     \
    X(personality)                                                                                 \
    X(setuid)                                                                                      \
    X(setgid)                                                                                      \
    X(setreuid)                                                                                    \
    X(setregid)                                                                                    \
    X(setresuid)                                                                                   \
    X(setresgid)                                                                                   \
    X(setgroups)                                                                                   \
    X(setfsuid)                                                                                    \
    X(setfsgid)                                                                                    \
    X(capset)                                                                                      \
    /* sockets; what it was given stay */                                                          \
    X(socket)                                                                                      \
    X(connect)                                                                                     \
    X(bind)                                                                                        \
    X(listen)                                                                                      \
    X(accept)                                                                                      \
    X(accept4)                                                                                     \
    /* names of files, and what a file is but its bytes */                                         \
    X(creat)                                                                                       \
    X(truncate)                                                                                    \
    X(link)                                                                                        \
    X(linkat)                                                                                      \
    X(symlink)                                                                                     \
    X(symlinkat)                                                                                   \
    X(mknod)                                                                                       \
    X(mknodat)                                                                                     \
    X(mkdir)                                                                                       \
    X(mkdirat)                                                                                     \
    X(rename)                                                                                      \
    X(renameat)                                                                                    \
    X(renameat2)                                                                                   \
    X(rmdir)                                                                                       \
    X(unlink)                                                                                      \
    X(unlinkat)                                                                                    \
    X(chmod)                                                                                       \
    X(fchmod)                                                                                      \
    X(fchmodat)                                                                                    \
    X(chown)                                                                                       \
    X(lchown)                                                                                      \
    X(fchown)                                                                                      \
    X(fchownat)                                                                                    \
    X(setxattr)                                                                                    \
    X(lsetxattr)                                                                                   \
    X(fsetxattr)                                                                                   \
    X(removexattr)                                                                                 \
    X(lremovexattr)                                                                                \
    X(fremovexattr)                                                                                \
    X(utime)                                                                                       \
    X(utimes)                                                                                      \
    X(futimesat)                                                                                   \
    X(utimensat)                                                                                   \
    X(name_to_handle_at)                                                                           \
    X(open_by_handle_at)                                                                           \
    /* mounts */                                                                                   \
    X(chroot)                                                                                      \
    X(pivot_root)                                                                                  \
    X(mount)                                                                                       \
    X(umount2)                                                                                     \
    X(mount_setattr)                                                                               \
    X(open_tree)                                                                                   \
    X(move_mount)                                                                                  \
    X(fsopen)                                                                                      \
    X(fsconfig)                                                                                    \
    X(fsmount)                                                                                     \
    X(fspick)                                                                                      \
    X(swapon)                                                                                      \
    X(swapoff)                                                                                     \
    X(quotactl)                                                                                    \
    /* the kernel, and its rarer doors */                                                          \
    X(bpf)                                                                                         \
    X(perf_event_open)                                                                             \
    X(userfaultfd)                                                                                 \
    X(io_uring_setup)                                                                              \
    X(io_uring_enter)                                                                              \
    X(io_uring_register)                                                                           \
    X(fanotify_init)                                                                               \
    X(init_module)                                                                                 \
    X(finit_module)                                                                                \
    X(delete_module)                                                                               \
    X(kexec_load)                                                                                  \
    X(kexec_file_load)                                                                             \
    X(reboot)                                                                                      \
    X(acct)                                                                                        \
    X(syslog)                                                                                      \
    X(vhangup)                                                                                     \
    X(add_key)                                                                                     \
    X(request_key)                                                                                 \
    X(keyctl)                                                                                      \
    X(iopl)                                                                                        \
    X(ioperm)                                                                                      \
    X(sethostname)                                                                                 \
    X(setdomainname)                                                                               \
    X(settimeofday)                                                                                \
    X(clock_settime)                                                                               \
    X(clock_adjtime)                                                                               \
    X(adjtimex)

#endif
