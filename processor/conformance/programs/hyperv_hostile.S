# A guest that attacks: random MSRs with random values (pages only from 2 MiB up), random hypercalls with random control words and
# input addresses, scribbling over its own SynIC pages. Whatever comes of it, the host goes on.
# mode: long
# hyperv: yes
# timed: too long to step through
# expect: 0x99
.include "hyperv.inc"
.macro random
    movq %r15, %rax
    shlq $13, %rax
    xorq %rax, %r15
    movq %r15, %rax
    shrq $7, %rax
    xorq %rax, %r15
    movq %r15, %rax
    shlq $17, %rax
    xorq %rax, %r15
.endm
main:
    handle 13, skip
    handle 6, give_up
    movabsq $0x123456789abcdef1, %r15
    enable_hypercalls
    enable_synic 0x100f3
    movl $20000, %ebp
next:
    random
    # One of the 512 MSRs; not the one that resets.
    movq %r15, %rcx
    shrq $20, %rcx
    andl $0x1ff, %ecx
    cmpl $3, %ecx
    je 1f
    cmpl $0x105, %ecx
    je 1f
    addl $0x40000000, %ecx
    random
    movq %r15, %rax
    movq %r15, %rdx
    shrq $32, %rdx
    # Half of them are pages within 2-4 MiB, half are anything that is no page of ours; sources stay masked. It does not lock
    # its hypercall page somewhere, and covers it with nothing: it wants to go on.
    testl $1, %edx
    jz 2f
    andl $0x1ffffd, %eax
    orl $0x208001, %eax
    xorl %edx, %edx
    jmp 3f
2:  orl $0x80010000, %eax
    andl $0xfffffffd, %eax
3:  wrmsr
    rdmsr
1:  # The page may be anywhere now: back to its place, and a call.
    enable_hypercalls
    random
    movq %r15, %rcx
    movq %r15, %rdx
    shrq $9, %rdx
    testl $2, %edx
    jz 4f
    andq $0x3fffff, %rdx
    andq $0x1ffff, %rcx
4:  testl $4, %edx
    jz 5f
    movl $0x5c, %ecx
    andl $0x3ffff8, %edx
    orl $0x208000, %edx
    movl $1, (%rdx)
    movl $200, 12(%rdx)
5:  movl $hypercall_page, %eax
    call *%rax
    # Noise in the slots, and the end of a message that there was none of.
    movl %ebp, message_page + 0x200
    movl %ebp, message_page + 0x204
    write_msr 0x40000083, message_page + 1
    write_msr 0x40000084, 0
    decl %ebp
    jnz next
    report $0x99
    finish
# RDMSR, WRMSR: two bytes.
skip:
    addq $16, %rsp
    addq $2, (%rsp)
    iretq
give_up:
    report $6
    finish
