# Privilege level 3: privileged instructions and supervisor pages fault, user code runs.
# mode: long
# expect: 0x0e00000d 0x0 0x0e00000e 0x5 0x600000 0x2a 0x3
.include "long.inc"
main:
    # 0x600000 is for the supervisor only.
    movq $0x600083, 0x12018
    movq %cr3, %rax
    movq %rax, %cr3
    handle 13, fault
    handle 14, page_fault
    pushq $0x3b
    pushq $0x7400
    pushq $2
    pushq $0x43
    pushq $user
    iretq
user:
    movl $0x15, %ebx
    addl %ebx, %ebx
    hlt
    movb 0x600000, %al
    # Port access is allowed: the bitmap says so.
    movl %ebx, %eax
    outl %eax, $0x80
    movl %cs, %eax
    andl $3, %eax
    outl %eax, $0x80
    finish
fault:
    report $0x0e00000d
    movl 8(%rsp), %eax
    outl %eax, $0x80
    addq $1, 16(%rsp)
    addq $16, %rsp
    iretq
page_fault:
    report $0x0e00000e
    movl 8(%rsp), %eax
    outl %eax, $0x80
    movq %cr2, %rax
    outl %eax, $0x80
    addq $7, 16(%rsp)
    addq $16, %rsp
    iretq
