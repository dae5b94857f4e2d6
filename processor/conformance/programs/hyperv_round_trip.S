# Signals a channel and waits for the flag and the interrupt that come back, 10000 times: the way of every request to a
# synthetic device and its completion.
# mode: long
# hyperv: yes
# timed: one round trip is what is measured
# expect: 0x2710 0x99
.include "hyperv.inc"
main:
    enable_apic
    enable_hypercalls
    enable_synic 0xf3
    handle 0xf3, interrupted
    sti
    movl $10000, %ebp
1:  movl $0x1005d, %ecx
    movabsq $(0x102 | 9 << 32), %rdx
    movl $hypercall_page, %eax
    call *%rax
2:  pause
    lock btrl $9, event_page + 0x200
    jnc 2b
    decl %ebp
    jnz 1b
    report count
    report $0x99
    finish
interrupted:
    addq $16, %rsp
    pushq %rax
    incl count
    end_interrupt
    popq %rax
    iretq
    .balign 4
count: .long 0
