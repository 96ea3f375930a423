// SPDX-License-Identifier: MIT OR Apache-2.0
// What only a kernel has: configuration, symbols, types, and programs that attach inside it. Weak ones are absent.
#define __kconfig __attribute__((section(".kconfig")))
#define __ksym __attribute__((section(".ksyms")))
#define __weak __attribute__((weak))
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#define xdp_md unused_xdp_md
#define __sk_buff unused_sk_buff
#include "../scenarios/livebpf.h"
#undef xdp_md
#undef __sk_buff
struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};
struct task_struct {
	int pid;
};
#pragma clang attribute pop

extern int CONFIG_HZ __kconfig;
extern __u64 CONFIG_ABSENT __kconfig __weak;
extern _Bool CONFIG_FLAG __kconfig __weak;
extern unsigned int LINUX_KERNEL_VERSION __kconfig;
extern const int some_variable __ksym;
extern const int weak_variable __ksym __weak;
extern int some_function(int n) __ksym;
extern int weak_function(int n) __ksym __weak;

SEC("xdp") int option(struct xdp_md *xdp) { return CONFIG_HZ; }
SEC("xdp") int weak_option(struct xdp_md *xdp) { return CONFIG_ABSENT + CONFIG_FLAG; }
SEC("xdp") int version(struct xdp_md *xdp) { return LINUX_KERNEL_VERSION >> 16; }
SEC("xdp") int variable(struct xdp_md *xdp) { return (long)&some_variable; }
SEC("xdp") int weak_variable_address(struct xdp_md *xdp) { return &weak_variable != 0; }
SEC("xdp") int function(struct xdp_md *xdp) { return some_function(1); }
SEC("xdp") int weak_call(struct xdp_md *xdp) { return weak_function ? weak_function(2) : 3; }
SEC("xdp") int stable_type(struct xdp_md *xdp) { return xdp->rx_queue_index; }
SEC("raw_tp/x") int kernel_type(struct task_struct *task) { return (long)__builtin_preserve_access_index(&task->pid); }
SEC("freplace/f") int replacement(struct xdp_md *xdp) { return 0; }
SEC("fentry/f") int tracing(void *ctx) { return 0; }
SEC("lsm/file_open") int hook(void *ctx) { return 0; }
SEC("struct_ops/init") int ops(void *ctx) { return 0; }
SEC("xpd") int misspelt(struct xdp_md *xdp) { return 0; }

LICENSE("GPL");
