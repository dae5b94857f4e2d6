# The trap flag: one #DB after each instruction, none for the one that sets it; a hardware breakpoint.
# mode: long
# needs: precise traps in emulated code
# expect: 0x3 0x4000 0x1
.include "long.inc"
main:
    handle 1, step
    pushfq
    orl $0x100, (%rsp)
    popfq
    nop
    nop
    pushfq
    # Not reached with the trap flag set: the handler clears it after three.
    movl count, %eax
    outl %eax, $0x80
    movq %dr6, %rax
    andl $0x4000, %eax
    outl %eax, $0x80
    xorl %eax, %eax
    movq %rax, %dr6
    movl $0, count
    movq $here, %rax
    movq %rax, %dr0
    movl $0x402, %eax
    movq %rax, %dr7
here:
    nop
    movl count, %eax
    outl %eax, $0x80
    finish
step:
    pushq %rax
    incl count
    cmpl $3, count
    jb 1f
    andl $~0x100, 40(%rsp)
1:  # Resume flag, so that the breakpoint does not come again.
    orl $0x10000, 40(%rsp)
    popq %rax
    addq $16, %rsp
    iretq
count: .long 0
