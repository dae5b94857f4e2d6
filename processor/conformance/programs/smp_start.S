# INIT and SIPI start the second VP in real mode at the vector's page; both then count under a lock.
# mode: long
# vps: 2
# expect: 0x2 0x30d40
.include "long.inc"
main:
    # The other VP's code at 0x9000: copied there, 16-bit.
    movq $ap, %rsi
    movl $0x9000, %edi
    movl $ap_end - ap, %ecx
    rep movsb
    movl $0xfee00000, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0x01000000, 0x310(%rbx)
    movl $0x4500, 0x300(%rbx)
    movl $0x01000000, 0x310(%rbx)
    movl $0x4609, 0x300(%rbx)
# Not "until it is 1": the other VP may be done before we look.
1:  pause
    cmpl $0, 0x6000
    je 1b
    movl $100000, %ecx
2:  lock incl 0x6004
    decl %ecx
    jnz 2b
    lock incl 0x6000
3:  pause
    cmpl $3, 0x6000
    jne 3b
    report $2
    report 0x6004
    finish
.code16
ap: xorw %ax, %ax
    movw %ax, %ds
    movl $1, 0x6000
    movl $100000, %ecx
1:  lock incl 0x6004
    decl %ecx
    jnz 1b
    lock incl 0x6000
2:  cli
    hlt
    jmp 2b
ap_end:
