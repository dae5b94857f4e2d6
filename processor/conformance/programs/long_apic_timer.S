# The local APIC's timer: one-shot, periodic, and by TSC deadline.
# mode: long
# timed: by the timer
# expect: 0x40 0x41 0x41 0x41 0x42
.include "long.inc"
main:
    handle 0x40, tick
    handle 0x41, tick
    handle 0x42, tick
    movl $0xfee00000, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0xb, 0x3e0(%rbx)
    movl $0x40, 0x320(%rbx)
    movl $1000000, 0x380(%rbx)
    sti
    hlt
    cli
    movl $0x20041, 0x320(%rbx)
    movl $500000, 0x380(%rbx)
    sti
    hlt
    hlt
    hlt
    cli
    movl $0, 0x380(%rbx)
    movl $0x40042, 0x320(%rbx)
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    addq $1000000, %rax
    movq %rax, %rdx
    shrq $32, %rdx
    movl $0x6e0, %ecx
    wrmsr
    sti
    hlt
    cli
    finish
tick:
    movl $0, 0xb0(%rbx)
    movl (%rsp), %eax
    andl $0xff, %eax
    outl %eax, $0x80
    addq $16, %rsp
    iretq
